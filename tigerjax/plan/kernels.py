"""The time of a step's splash kernels, from the schedule that the compiler makes of each.

The compiler gives a Pallas kernel no cycles. But libtpu can write its final schedule: one bundle of instructions for
each cycle, with the loop over the kernel's grid, and the parts of its body that run in some steps only. The kernels of
a step are compiled once more, alone and for one device, and the bundles are counted:

    cycles  =  steps x bundles of the body outside those parts
               + steps with work x bundles of the part with the matrix products
               + sweeps x bundles of the other parts, which begin and end a sweep: one run of the grid's inner loop

Waiting for memory is not counted. Where a chip has two TensorCores in one device, the bounds of the loop say whether
they share the grid; where they do not, one of them does all of it.

libtpu takes the option that writes schedules only when it is loaded, so this room is a process of its own too.
"""

import dataclasses
import json
import math
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.config import MeshConfig, SplashConfig
from tigerjax.errors import ConfigError
from tigerjax.plan import topology
from tigerjax.plan.topology import CHIPS, Chip, Topology

PRODUCTS = {"fwd": 2, "dkv": 4, "dq": 3}
"""Matrix products of a splash kernel, each 2 x rows x heads x T x T x head_dim / 2 operations (causal). The one
fused backward kernel has 5 and carries the name of dkv."""
DUMP = "--xla_jf_dump_to={} --xla_jf_dump_llo_text=true --xla_jf_dump_llo_pass_label_regex=final_bundles"
"""Flags of libtpu with which it writes the final schedule of every kernel into a folder."""
BUNDLE = re.compile(r"^ {0,6}(?:0x[0-9a-f]+|0) ([ A-Z]*):", re.MULTILINE)
BOUNDS = re.compile(r"iteration_bounds: \(([\d, ]+)\)")
ERROR = re.compile(r"^\w[\w.]*(?:Error|Exception): .*$", re.MULTILINE)
UNKNOWN = "report the chip and the versions of jax and libtpu, or use those of the lock"


class KernelCall(NamedTuple):
    """A splash kernel that a program calls, with the shapes of one device."""

    phase: str
    """A name of PRODUCTS."""
    rows: int
    heads: int
    queries: int
    keys: int
    kv_heads: int
    head_dim: int


class KernelSchedule(NamedTuple):
    """The final schedule of a kernel. `always`, `with_work` and `by_sweep` count bundles of instructions: those of
    every step, those of a step with matrix products, and those at the begin and end of a sweep."""

    bounds: tuple[int, ...]
    """Iterations along each dimension of the grid, as one core runs it; the innermost loop is last."""
    always: int
    with_work: int
    by_sweep: int

    def cycles(self, share_with_work: float, least_with_work: float, sweeps: float = 1) -> float:
        """Cycles of one call. `share_with_work` is the share of the grid's steps whose block is not masked completely.
        Such a step takes at least `least_with_work` cycles, since the matrix units are busy for so long. The innermost
        loop of the grid makes `sweeps`."""
        steps = math.prod(self.bounds)
        work = max(self.with_work, least_with_work)
        return steps * self.always + steps * share_with_work * work + steps / self.bounds[-1] * sweeps * self.by_sweep


def seconds(
    calls: set[KernelCall],
    chip: Chip,
    c: SplashConfig,
    window: int | None,
    options: dict[str, Any],
    timeout_s: float | None = None,
) -> dict[KernelCall, float]:
    """Seconds of one call of each kernel. `options` are the libtpu flags of the step.

    ConfigError where the compiler refuses a kernel, or writes a schedule whose form is not known. TimeoutExpired of
    subprocess where the kernels of one shape take longer than `timeout_s` to compile.
    """
    found: dict[KernelCall, float] = {}
    for shapes in sorted({call[1:] for call in calls}):
        asked = {"chip": chip.name, "shapes": shapes, "splash": dataclasses.asdict(c), "window": window}
        with tempfile.TemporaryDirectory() as folder:
            told = f"{os.environ.get('LIBTPU_INIT_ARGS', '')} {DUMP.format(folder)}".strip()
            done = subprocess.run(
                [sys.executable, "-m", "tigerjax.plan.kernels"],
                input=json.dumps(asked | {"options": options}),
                env=os.environ | topology.COMPILER_ENVIRONMENT | {"LIBTPU_INIT_ARGS": told},
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
            if done.returncode:
                why = ERROR.findall(done.stderr)[-1:] or done.stderr.strip().splitlines()[-1:] or ["no message"]
                raise ConfigError(f"the attention kernels do not compile alone: {why[0][:300]}; {UNKNOWN}")
            shares = json.loads(done.stdout.splitlines()[-1])
            schedules = {phase: schedule for path in sorted(Path(folder).glob("*splash*final_bundles.txt"))
                         if "analysis" not in path.name and (phase := _phase(path.name))
                         and (schedule := read(path.read_text(encoding="utf-8")))}  # fmt: skip
        for call in (call for call in calls if call[1:] == shapes):
            if call.phase not in schedules:
                raise ConfigError(f"the compiler wrote no schedule of the kernel {call.phase}; {UNKNOWN}")
            share, sweeps = shares[call.phase]
            cycles = schedules[call.phase].cycles(share, _least(call, chip, c), sweeps)
            found[call] = cycles / chip.clock_hz
    return found


def _phase(name: str) -> str | None:
    return next((phase for phase in PRODUCTS if f"_{phase}" in name), None)


def _least(call: KernelCall, chip: Chip, c: SplashConfig) -> float:
    """The cycles for which the matrix units are busy in one step of the grid with matrix products."""
    blocks = {
        "fwd": (c.block_q, c.block_kv),
        "dq": (c.block_q_dq, c.block_kv_dq),
        "dkv": (c.block_q_dkv, c.block_kv_dkv),
    }[call.phase]
    products = PRODUCTS[call.phase] + (c.fused_backward and call.phase == "dkv")
    return cycles_at_peak(products, math.prod(blocks), call.head_dim, chip)


def cycles_at_peak(products: int, pairs: int, head_dim: int, chip: Chip) -> float:
    """Cycles of one core for so many matrix products over so many pairs of a query and a key."""
    cores = 2 if chip.chip_config == "megacore" else 1
    return 2 * products * pairs * head_dim / (chip.device_flops / cores / chip.clock_hz)


def cycles(text: str) -> int:
    """Cycles of a kernel whose loop has no parts that run in some steps only, by its `*final_bundles.txt`."""
    bounds, _, body = _loop(text)
    return math.prod(bounds) * _length(body)


def read(text: str) -> KernelSchedule:
    """The schedule in a file `*final_bundles.txt`. ConfigError for a form that is not known."""
    bounds, bundles, body = _loop(text)
    products = [n for n, bundle in enumerate(bundles) if "= vmatmul" in bundle]
    regions = [r for r in _regions(bundles) if body[0] <= r[0] and r[1] <= body[1] and r != body]
    around = [r for r in regions if products and r[0] <= products[0] and r[1] >= products[-1]]
    main = min(around, key=_length, default=None)
    if main is None:
        raise ConfigError(f"a kernel's schedule has no part with all of its matrix products; {UNKNOWN}")
    beside = [r for r in regions if r[1] < main[0] or r[0] > main[1]]
    covered = set[int]().union(*(range(first, last + 1) for first, last in beside))
    always = _length(body) - _length(main) - len(covered)
    return KernelSchedule(bounds, always, _length(main), len(covered))


class Alternatives(NamedTuple):
    """Bundles of a kernel with more than one body for a step with work: `bodies` in their order, of which a step runs
    one; what each step runs beside it, and what begins and ends a sweep."""

    bodies: tuple[int, ...]
    always: int
    by_sweep: int


def alternatives(text: str) -> Alternatives:
    """The bodies in a file `*final_bundles.txt` whose loop visits steps with work only. ConfigError where it has none.

    A part without products counts to the sweep, since a kernel's own arithmetic of one step stands outside all parts.
    """
    _, bundles, body = _loop(text)
    products = [n for n, bundle in enumerate(bundles) if "= vmatmul" in bundle]
    inside = [r for r in _regions(bundles) if body[0] <= r[0] and r[1] <= body[1] and r != body]
    holds = {r: sum(r[0] <= n <= r[1] for n in products) for r in inside}
    some = [r for r, count in holds.items() if 0 < count < len(products)]
    outer = sorted(r for r in some if not any(s != r and s[0] <= r[0] and r[1] <= s[1] for s in some))
    if sum(holds[r] for r in outer) != len(products) or len(outer) < 2:
        raise ConfigError(f"a kernel's schedule has no two bodies with its matrix products; {UNKNOWN}")
    bare = [r for r, count in holds.items() if not count and not any(o[0] <= r[0] and r[1] <= o[1] for o in outer)]
    covered = set[int]().union(*(range(first, last + 1) for first, last in bare))
    bodies = tuple(_length(r) for r in outer)
    return Alternatives(bodies, _length(body) - sum(bodies) - len(covered), len(covered))


def _loop(text: str) -> tuple[tuple[int, ...], list[str], tuple[int, int]]:
    """(iterations along each dimension of the grid, the bundles, the first and the last one of the loop over it)."""
    starts = [*BUNDLE.finditer(text)]
    bundles = [text[a.start() : b.start() if b else None] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    loops = [n for n, match in enumerate(starts) if "LB" in match[1].split()]
    bounds = {match[1] for match in BOUNDS.finditer(text)}
    sizes = tuple(int(size) for size in next(iter(bounds), "").split(",") if size)
    if not loops and math.prod(sizes) == 1:  # one step, and where a device has one core no bounds either
        return sizes, bundles, (0, len(bundles) - 1)
    if len(loops) != 1 or len(bounds) != 1:
        raise ConfigError(f"a kernel's schedule has {len(loops)} loops over {len(bounds)} grids, not one; {UNKNOWN}")
    body = max((r for r in _regions(bundles) if r[0] == loops[0]), key=_length, default=None)
    if body is None:
        raise ConfigError(f"a kernel's schedule has a loop without an end; {UNKNOWN}")
    return sizes, bundles, body


def _length(region: tuple[int, int]) -> int:
    return region[1] - region[0] + 1


def _regions(bundles: list[str]) -> Any:
    """(first bundle, last bundle) of each region that a schedule marks with its start and end."""
    begun: dict[str, int] = {}
    for n, bundle in enumerate(bundles):
        begun |= dict.fromkeys(re.findall(r"Start region (\d+)", bundle), n)
        for name in re.findall(r"End region (\d+)", bundle):
            if name in begun:
                yield begun.pop(name), n


def _compile(asked: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Compiles the kernels forward and backward, for one device, or for the devices that share a row. Returns by phase
    which share of the grid's steps has work, and how many sweeps the inner loop makes."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from tigerjax.mesh import balanced_places, in_mesh, make_mesh
    from tigerjax.model.splash import splash
    from tigerjax.model.splash_blocks import FIRST, FIRST_OF_QUERIES, RUNS, mask_infos, tables

    call = KernelCall("fwd", *asked["shapes"])
    ways, chip = call.keys // call.queries, CHIPS[asked["chip"]]
    sizes = [1] * chip.dims
    for n in range((ways - 1).bit_length()):
        sizes[-1 - n % chip.dims] *= 2
    devices = topology.describe(Topology(chip=chip, shape=tuple(sizes)))[:ways]
    c = SplashConfig(**asked["splash"])

    def loss(q: Any, k: Any, v: Any, ids: Any) -> Any:
        return splash(q, k, v, ids, c=c, window=asked["window"]).astype("float32").sum()

    B, S, H = call.rows, call.keys, call.head_dim
    q, k = (jax.ShapeDtypeStruct((B, S, heads, H), jnp.bfloat16) for heads in (call.heads, call.kv_heads))
    ids = jax.ShapeDtypeStruct((B, S), jnp.int32)
    mesh = make_mesh(MeshConfig(sequence=ways), devices)
    lowered = in_mesh(mesh, jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower)(q, k, k, ids)
    lowered.compile(compiler_options=asked["options"])
    places = in_mesh(mesh, balanced_places)(S)
    if c.kernel == "wide":
        forward, backward, _ = tables(places, c, asked["window"])
        begun = [float(max(np.count_nonzero(steps[0] & flag) for flag in (FIRST, FIRST_OF_QUERIES)))
                 for steps in (forward, backward)]  # fmt: skip
        shares = [float(np.mean((steps & RUNS) != 0)) for steps in (forward, backward)]
        return dict(zip(("fwd", "dkv"), zip(shares, begun, strict=True), strict=True))
    infos = zip(("fwd", "dq", "dkv"), mask_infos(places, c, asked["window"]), strict=True)
    return {phase: (float((info.block_mask != 0).mean()), 1) for phase, info in infos if info is not None}


if __name__ == "__main__":
    print(json.dumps(_compile(json.load(sys.stdin))))
