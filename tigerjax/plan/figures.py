"""The figures of a plan, and the text that shows them.

GB is 1e9 bytes. Every figure is of one step. Memory is that of one device, which is a chip, or half a chip on a TPU7x;
FLOPs and tokens are those of one chip where the name says so.
"""

import re
from typing import Any

from tigerjax.config import RunConfig
from tigerjax.mesh import AXES, make_mesh
from tigerjax.plan import collectives, kernels
from tigerjax.plan.compile import Compiled
from tigerjax.plan.estimate import Estimator, is_uncounted
from tigerjax.plan.topology import Topology, describe
from tigerjax.plan.trips import Program

GB = 1e9
SHOWN_BUFFERS = 15
LEFT_OUT = ("waiting for memory inside kernels", "input and saves", "slow hosts", "limits of power")
"""What the time of a step does not hold."""
BUFFER = re.compile(r"^\s*\S+\(\s*\d+%\);\s*([\d.]+)([KMGT]?i?B);\s*\d+;\s*\d+;\s*(.*)$")
SMALLER = {"TFLOP": ("GFLOP", "MFLOP"), "s": ("ms", "us"), "GB": ("MB", "kB")}
UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


def figures(config: RunConfig, topology: Topology, compiled: Compiled) -> dict[str, Any]:
    """What `tigerjax plan --json` writes. When the program does not fit, it has no times and no rates.

    The attention kernels are compiled once more, alone: only their schedules say what time they take.
    """
    chip, tokens, flops = topology.chip, compiled.tokens, compiled.flops / topology.chips
    shown: dict[str, Any] = {
        "config": config.name,
        "topology": topology.name,
        "slices": topology.slices,
        "chips": topology.chips,
        "devices": topology.devices,
        "mesh": {axis: getattr(config.mesh, axis) for axis in AXES},
        "tokens_per_step": tokens,
        "hbm_gb": chip.hbm_bytes / GB,
        "peak_gb": compiled.peak_bytes / GB,
        "argument_gb": compiled.argument_bytes / GB,
        "temp_gb": compiled.temp_bytes / GB,
        "host_gb": compiled.host_bytes / GB,
        "headroom_gb": (chip.hbm_bytes - compiled.peak_bytes) / GB,
        "fits": compiled.out_of_memory is None,
        "model_tflop_per_chip": flops / 1e12,
        "frozen": bool(config.lora.rank or config.weights.trained or config.weights.frozen),
        "libtpu_flags": compiled.options,
        "compile_s": compiled.lower_s + compiled.compile_s,
    }
    if compiled.out_of_memory is not None:
        return shown | {"out_of_memory": compiled.out_of_memory}
    mesh, program = make_mesh(config.mesh, describe(topology)), Program(compiled.hlo)
    estimator = Estimator(program, mesh, topology)
    splash, window = config.compute.splash, config.model.extras.window
    estimator.kernel_seconds = kernels.seconds(estimator.splash_calls(), chip, splash, window, compiled.options)
    times = estimator.step()
    return shown | {
        "static_step_s": times.static,
        "attention_s": times.attention,
        "lookup_s": times.lookups,
        "moved_s": times.moved,
        "exposed_comm_s": times.exposed,
        "comm_s": times.transfers,
        "host_copy_s": times.host,
        "step_s": times.total,
        "left_out": list(LEFT_OUT),
        "mfu_bound": flops / chip.peak_flops / times.total,
        "tokens_per_s_per_chip": tokens / topology.chips / times.total,
        "tokens_per_s_per_device": tokens / topology.devices / times.total,
        "collectives": collectives.by_axis(collectives.collectives(program, mesh, topology)),
        "kernels": program.kernels(),
        "splash_calls": [
            call._asdict() | {"runs": runs, "seconds": estimator.kernel_seconds[call]}
            for call, runs in sorted(estimator.splash_runs().items())
        ],
        "uncounted_kernels": sorted(program.kernels(is_uncounted)),
    }


def duration(shown: dict[str, Any], tokens: float) -> dict[str, Any]:
    """The days and chip-hours that `tokens` take, at the least. Empty when the program does not fit."""
    if not shown["fits"]:
        return {}
    days = tokens / shown["tokens_per_step"] * shown["step_s"] / 86400
    return {"tokens": tokens, "days": days, "chip_hours": days * 24 * shown["chips"]}


def buffers(report: str) -> list[tuple[float, str]]:
    """The temporaries in libtpu's memory-usage report as (GB, shapes), largest first.

    Buffers that are not needed at the same time share memory: `shapes` lists all that use it in turn.
    """
    out = []
    for line in report.splitlines():
        if match := BUFFER.match(line):
            out.append((float(match[1]) * UNITS[match[2]] / GB, match[3]))
    return sorted(out, key=lambda row: -row[0])


def _scaled(value: float, unit: str, digits: int) -> str:
    """The value in this unit, or in a smaller one where that would show zeros: 0.00004 s -> 40.0 us."""
    for smaller in SMALLER[unit]:
        if value == 0 or value >= 10.0 ** (1 - digits):
            break
        value, unit, digits = value * 1000, smaller, 1
    return f"{value:.{digits}f} {unit}"


def _gb(value: float) -> str:
    """Gigabytes without the unit, or fewer bytes with theirs."""
    return _scaled(value, "GB", 1).removesuffix(" GB")


def _of(value: float, limit: float) -> str:
    return f"{_gb(value)} of {limit:.1f} GB"


def lines(shown: dict[str, Any], report: str) -> list[str]:
    """The plan as text: memory, time, traffic; for a program that does not fit, its largest buffers."""
    mesh = " x ".join(f"{axis} {n}" for axis, n in shown["mesh"].items() if n > 1) or "1 device"
    halves = shown["devices"] > shown["chips"]  # a chip has two devices: say of which a figure is
    devices = f" of {shown['devices'] // shown['chips']} devices" if halves else ""
    slices = f"{shown['slices']} x " if shown["slices"] > 1 else ""
    out = [
        f"{shown['config']} on {slices}{shown['topology']}: {shown['chips']} chips"
        f"{devices}, {mesh}; a step of"
        f" {shown['tokens_per_step']:,} tokens, compiled in {shown['compile_s']:.0f} s",
        "",
    ]
    if not shown["fits"]:
        return out + _too_large(shown, report)
    host = f" and host copies {_scaled(shown['host_copy_s'], 's', 3)}" if shown["host_copy_s"] else ""
    counted = "without gradients of frozen weights" if shown["frozen"] else "6 x matmul parameters + causal attention"
    out += [
        f"memory per {'device ' if halves else 'chip   '} peak {_of(shown['peak_gb'], shown['hbm_gb'])}"
        f"   arguments {_gb(shown['argument_gb'])}   temporaries {_gb(shown['temp_gb'])}"
        f"   headroom {shown['headroom_gb']:.1f}"
        + (f"   in host memory {shown['host_gb']:.1f}" if shown["host_gb"] else ""),
        f"model FLOPs        {_scaled(shown['model_tflop_per_chip'], 'TFLOP', 1)} per chip and step"
        f" ({counted}; recomputation not counted)",
        f"compiler estimate  {_scaled(shown['static_step_s'], 's', 3)} (cycles x trips / clock)",
        f"splash kernels     {_scaled(shown['attention_s'], 's', 3)} (bundles of their schedules / clock)",
        f"lookups            {_scaled(shown['lookup_s'], 's', 3)} (bytes / memory bandwidth)",
        f"communication      {_scaled(shown['comm_s'], 's', 3)}{host}, of which"
        f" {_scaled(shown['exposed_comm_s'], 's', 3)} not hidden",
    ]
    if shown["moved_s"]:
        out.append(
            f"other kernels      {_scaled(shown['moved_s'], 's', 3)} (bytes / memory bandwidth, or FLOPs / peak)"
        )
    if shown["uncounted_kernels"]:
        out.append(f"not counted        {', '.join(shown['uncounted_kernels'])}")
    out += [
        f"step               {_scaled(shown['step_s'], 's', 2)}, without {', '.join(shown['left_out'])}",
        f"MFU                at most {shown['mfu_bound']:.1%}",
        f"tokens/s/chip      at most {shown['tokens_per_s_per_chip']:,.0f}"
        + (f"; per device {shown['tokens_per_s_per_device']:,.0f}" if halves else ""),
        "",
        f"{'collective':26} {'axis':12} {'GB sent':>9} {'runs':>7} {'seconds':>9}",
    ]
    for row in shown["collectives"]:
        kind = row["op"] + (" (async)" if row["async"] else "")
        out.append(f"{kind:26} {row['axis']:12} {row['bytes'] / GB:9.3f} {row['count']:7} {row['seconds']:9.4f}")
    if "days" in shown:
        out += [
            "",
            f"{shown['tokens']:.3g} tokens    {shown['days']:.1f} days, {shown['chip_hours']:,.0f} chip-hours",
        ]
    return out


def _too_large(shown: dict[str, Any], report: str) -> list[str]:
    out = [
        f"does not fit: {shown['out_of_memory'].split(': ', 1)[-1].splitlines()[0]}",
        f"arguments alone (weights, optimiser, batch): {shown['argument_gb']:.1f} GB of {shown['hbm_gb']:.1f}",
        "",
        "largest temporaries (the shapes of one line use the memory in turn)",
    ]
    for size, shapes in buffers(report)[:SHOWN_BUFFERS]:
        out.append(f"{size:9.3f} GB  {shapes if len(shapes) < 90 else shapes[:87] + '...'}")
    return out
