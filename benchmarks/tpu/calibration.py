"""How far our estimate of a step is from what others measured: MaxText's own program, at the settings of published
runs, through the arithmetic of `tigerjax plan`.

    python -m pip install --no-deps --target runs/maxtext maxtext==0.2.5 aqtp annotated-doc drjax einshape fastapi \\
        fire grain jaxtyping mpmath omegaconf pathwaysutils portpicker qwix sympy tiktoken tokamax transformers \\
        wadler-lindig xprof
    PYTHONPATH=runs/maxtext:. python benchmarks/tpu/calibration.py      a process each; resumable

    python -m pip install --no-deps --target runs/older maxtext==0.2.4 ml-goodput-measurement jax==0.10.2 \\
        jaxlib==0.10.2 libtpu==0.0.42.1
    DECOUPLE_GCLOUD=TRUE PYTHONPATH=runs/older:runs/maxtext:. python benchmarks/tpu/calibration.py

    PYTHONPATH=. python benchmarks/tpu/calibration.py --write      into docs/PLAN.md

It takes Python 3.12 or newer, and jax and libtpu of that Python's lock. The second pair of commands compiles what the
older libtpu is for: the flags with which v5p and v6e were measured are refused by the newer one. MaxText is no
dependency of tigerjax, and its step is compiled as it is; no TPU is needed. The compiler writes the schedules of all
kernels meanwhile, some GB, which are removed again. What is published was measured with older versions of MaxText and
of the compiler than these.
"""

import argparse
import dataclasses
import importlib
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tpu_table import write

DOC = Path(__file__).resolve().parents[2] / "docs" / "PLAN.md"
RECIPES = "https://github.com/AI-Hypercomputer/tpu-recipes/tree/main/training"
SPARSE_CORES = {
    f"xla_tpu_enable_sparse_core_collective_offload_{name}": "true"
    for name in ("all_gather", "2d_all_gather", "3d_all_gather", "reduce_scatter", "all_reduce")
}

LLAMA2_70B = {"model_name": "llama2-70b", "per_device_batch_size": 4, "max_target_length": 4096}
"""Settings that both runs of it have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """A run that was measured."""

    topology: str
    theirs: str
    """MaxText's name of the same slice."""
    measured_s: float
    """Seconds of a step, as published."""
    source: str
    settings: dict[str, Any]
    """Of MaxText, over those of its base.yml."""
    libtpu: str
    """The version that compiles it."""
    flags: dict[str, str]
    """Of libtpu: those that were published, as far as this version takes them."""


OLDER, NEWER = "0.0.42.1", "0.0.52"
FUSED_GATHERS = {
    "xla_tpu_enable_async_collective_fusion": "true",
    "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "true",
    "xla_tpu_enable_async_collective_fusion_multiple_steps": "true",
    "xla_tpu_enable_ag_backward_pipelining": "true",
    "xla_tpu_enable_data_parallel_all_reduce_opt": "true",
    "xla_tpu_data_parallel_opt_different_sized_ops": "true",
    "xla_tpu_megacore_fusion_allow_ags": "false",
    "xla_tpu_overlap_compute_collective_tc": "true",
    "xla_enable_async_all_gather": "true",
    "xla_enable_async_collective_permute": "true",
}
"""With which v5p and v6e were measured: products hide the gathers that are fused with them. NEWER refuses them."""

CASES = {
    "Llama-2-70B, v5p 256 chips": Case(
        topology="v5p:4x8x8",
        theirs="v5p-512",
        measured_s=23.68,  # 692 tokens/s/chip
        source="https://github.com/AI-Hypercomputer/maxtext",
        settings={
            **LLAMA2_70B,
            "remat_policy": "save_dot_except_mlpwi",
        },
        libtpu=OLDER,
        flags=FUSED_GATHERS,
    ),
    "Llama-2-70B, v6e 256 chips": Case(
        topology="v6e:16x16",
        theirs="v6e-256",
        measured_s=17.373,
        source=f"{RECIPES}/trillium/Llama2-70B-MaxText",
        settings={
            **LLAMA2_70B,
            "remat_policy": "full",
            "ici_fsdp_parallelism": 1,
            "ici_fsdp_transpose_parallelism": -1,
            "sa_block_q": 1024,
            "sa_block_q_dkv": 2048,
            "sa_block_q_dq": 2048,
        },
        libtpu=OLDER,
        flags=FUSED_GATHERS | {"xla_tpu_scoped_vmem_limit_kib": "98304"},
    ),
    "Llama-3.1-70B, tpu7x 64 chips": Case(
        topology="tpu7x:4x4x4",
        theirs="tpu7x-128",
        measured_s=12.20,
        source=f"{RECIPES}/ironwood",
        settings={
            "model_name": "llama3.1-70b",
            "remat_policy": "custom",
            "per_device_batch_size": 2,
            "max_target_length": 8192,
            "decoder_layer_input": "device",
            "context": "device",
            "query_proj": "device",
            "key_proj": "device",
            "value_proj": "device",
            "opt_type": "adamw",
            "mu_dtype": "bfloat16",
            "sa_block_q": 2048,
            "sa_block_kv": 1024,
            "sa_block_kv_compute": 512,
            "sa_block_q_dkv": 2048,
            "sa_block_kv_dkv": 2048,
            "sa_block_kv_dkv_compute": 256,
            "sa_q_layout": "SEQ_MINOR",
            "sa_k_layout": "SEQ_MINOR",
            "sa_v_layout": "HEAD_DIM_MINOR",
            "sa_use_fused_bwd_kernel": True,
            "use_tokamax_splash": True,
        },
        libtpu=NEWER,
        flags=SPARSE_CORES
        | {
            "xla_tpu_scoped_vmem_limit_kib": "65536",
            "xla_tpu_bf16_emission_mode": "NATIVE_EMISSION",
            "xla_tpu_enable_sparse_core_reduce_scatter_v2": "true",
            "xla_tpu_enable_all_gather_offload_tracing": "true",
            "xla_tpu_use_tc_device_shape_on_sc": "true",
            "xla_sc_disable_megacore_partitioning": "true",
            "xla_tpu_enable_async_collective_fusion_fuse_all_gather": "false",
            "xla_enable_async_all_gather": "true",
            "xla_tpu_prefer_async_allgather_to_allreduce": "true",
            "xla_tpu_use_single_sparse_core_for_all_gather_offload": "true",
        },
    ),
}
CASES |= {
    "Llama-2-70B, v5p 256 chips, no flags": dataclasses.replace(
        CASES["Llama-2-70B, v5p 256 chips"], libtpu=NEWER, flags={}
    ),
    "Llama-2-70B, v6e 256 chips, gathers by SparseCores": dataclasses.replace(
        CASES["Llama-2-70B, v6e 256 chips"],
        libtpu=NEWER,
        flags={"xla_tpu_scoped_vmem_limit_kib": "98304"}
        | {name: on for name, on in SPARSE_CORES.items() if "3d" not in name},
    ),
}
BLOCKS = {"fwd": ("sa_block_q", "sa_block_kv"), "dkv": ("sa_block_q_dkv", "sa_block_kv_dkv"),
          "dq": ("sa_block_q_dq", "sa_block_kv_dq")}  # fmt: skip
"""MaxText's settings of the blocks of queries and of keys, by kernel."""


def causal_blocks(length: int, queries: int, keys: int) -> tuple[int, int, int]:
    """(blocks of a row's square, those with a pair that the causal mask keeps, those of them that it cuts)."""
    corners = [(q, k) for q in range(0, length, queries) for k in range(0, length, keys)]
    seen = [(q, k) for q, k in corners if k < q + queries]
    return len(corners), len(seen), sum(k + keys - 1 > q for q, k in seen)


def kernel_s(text: str, phase: str, config: Any, topology: Any) -> float:
    """Seconds of one call of an attention kernel, by its schedule.

    JAX's kernel visits all blocks of the square. Tokamax's visits those with work, so the last bound of its loop is not
    known to the compiler, and it has two bodies: one for blocks that the mask cuts and one for the others.
    """
    from tigerjax.plan import kernels

    chip = topology.chip
    queries, keys = (getattr(config, name) for name in BLOCKS[phase])
    every, seen, cut = causal_blocks(config.max_target_length, queries, keys)
    schedule = kernels.read(text)
    if schedule.bounds[-1] < 2**31 - 1:
        least = kernels.cycles_at_peak(kernels.PRODUCTS[phase], queries * keys, config.head_dim, chip)
        return schedule.cycles(seen / every, least) / chip.clock_hz
    lengths = kernels.alternatives(text)
    whole, masked = min(lengths.bodies), max(lengths.bodies)
    sweeps = config.max_target_length // (keys if phase == "dkv" else queries)
    each = (seen - cut) * whole + cut * masked + seen * lengths.always + sweeps * lengths.by_sweep
    return math.prod(schedule.bounds[:-1]) * each / chip.clock_hz


def measure(name: str, dumped: Path) -> dict[str, Any]:
    """Compiles MaxText's step in this process, and estimates it. `dumped` is where libtpu writes schedules."""
    from tigerjax.plan import collectives, topology
    from tigerjax.plan.estimate import Estimator
    from tigerjax.plan.trips import Program

    train_compile: Any = importlib.import_module("maxtext.trainers.pre_train.train_compile")
    case, kept = CASES[name], {}
    compile_step = train_compile.jit_and_compile

    def keep(*args: Any, **kwargs: Any) -> Any:
        kept["compiled"], kept["mesh"], kept["config"] = compile_step(*args, **kwargs), args[3], args[8]
        return kept["compiled"]

    train_compile.jit_and_compile = keep
    base = Path(train_compile.__file__).parents[2] / "configs" / "base.yml"
    given = {
        "compile_topology": case.theirs, "compile_topology_num_slices": 1, "run_name": "calibration",
        "base_output_directory": str(dumped), "dataset_type": "synthetic", "enable_checkpointing": False,
        "use_iota_embed": True, "attention": "flash",
    } | case.settings  # fmt: skip
    if case.flags:
        given["compile_xla_flags"] = " ".join(f"--{flag}={value}" for flag, value in case.flags.items())
    train_compile.main(["train_compile", str(base), *(f"{key}={value}" for key, value in given.items())])
    where, compiled, config = topology.parse(case.topology), kept["compiled"], kept["config"]
    program = Program(compiled.as_text())
    estimator = Estimator(program, kept["mesh"], where)
    for call in estimator.splash_calls():
        path = next(p for p in dumped.glob(f"*splash*_{call.phase}_*final_bundles.txt") if "analysis" not in p.name)
        estimator.kernel_seconds[call] = kernel_s(path.read_text(encoding="utf-8"), call.phase, config, where)
    times = estimator.step()
    moved = collectives.by_axis(collectives.collectives(program, kept["mesh"], where))
    return {
        "case": name,
        "peak_gb": compiled.memory_analysis().peak_memory_in_bytes / 1e9,
        "times": times._asdict() | {"total": times.total},
        "splash_runs": [call._asdict() | {"runs": n} for call, n in estimator.splash_runs().items()],
        "collectives": moved,
    }


HEAD = (
    "run",
    "libtpu",
    "static s",
    "attention s",
    "lookups s",
    "not hidden s",
    "estimate s",
    "measured s",
    "estimate / measured",
)


def cells(name: str, shown: dict[str, Any]) -> list[str]:
    case, times = CASES[name], shown["times"]
    parts = [f"{times[part]:.2f}" for part in ("static", "attention", "lookups", "exposed", "total")]
    return [
        f"[{name}]({case.source})",
        case.libtpu,
        *parts,
        f"{case.measured_s:.2f}",
        f"{times['total'] / case.measured_s:.1%}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/calibration"), help="folder of the cases' JSON files")
    parser.add_argument("--only", nargs="+", choices=CASES, help="default: those of the libtpu that is installed")
    parser.add_argument("--write", action="store_true", help="compile nothing; put what is there into docs")
    parser.add_argument("--in-process", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.in_process:
        shown = measure(a.only[0], a.in_process)
        path_of(a.out, a.only[0]).write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
        return
    from tigerjax.plan import kernels

    installed = importlib.metadata.version("libtpu")
    here = [name for name, case in CASES.items() if case.libtpu == installed]
    names = list(CASES) if a.write else a.only or here
    if not a.write and (others := [name for name in names if name not in here]):
        parser.error(f"libtpu {installed} is installed, and these take {CASES[others[0]].libtpu}: {'; '.join(others)}")
    a.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in names:
        path = path_of(a.out, name)
        if not a.write and not path.is_file():
            folder = tempfile.mkdtemp(dir=a.out)
            told = kernels.DUMP.format(folder)
            command = [sys.executable, __file__, "--in-process", folder, "--out", str(a.out), "--only", name]
            done = subprocess.run(command, env=os.environ | {"LIBTPU_INIT_ARGS": told}, capture_output=True, text=True)
            shutil.rmtree(folder)
            if done.returncode:
                print(f"{name} failed: {done.stderr.strip()[-1500:]}", flush=True)
        if path.is_file():
            rows.append(cells(name, json.loads(path.read_text(encoding="utf-8"))))
            print(" | ".join(rows[-1]), flush=True)
    if a.write:
        write(DOC, "calibration", HEAD, rows)


def path_of(folder: Path, name: str) -> Path:
    return folder / f"{CASES[name].theirs}_{CASES[name].libtpu}.json"


if __name__ == "__main__":
    # Before jax is imported, here and in the processes that compile.
    from tigerjax.plan.topology import set_compiler_environment

    set_compiler_environment()
    main()
