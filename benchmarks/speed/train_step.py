"""Tokens per second of the training step on this machine's first device, by activation dtype and loss chunk.

    JAX_PLATFORMS=cpu python benchmarks/speed/train_step.py --json train_step.json
    python benchmarks/speed/train_step.py --dtype float32 --remat none --chunk 512 1024 4096 --steps 10

The default sizes are a quick-start model: D=128, L=4, F=384, 4 heads, 2 kv heads, V=3072, T=128, 32 rows.
Every case is compiled, run twice to warm up, then timed over --steps steps; the best and the median are shown.
"""

import argparse
import json
import statistics
import time
from typing import NamedTuple

import jax
import numpy as np

from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig, ObjectiveConfig, OptimConfig, PipelineConfig
from tigerjax.mesh import make_mesh
from tigerjax.model.numbers import model_flops
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state
from tigerjax.train.step import compile_step


class Batch(NamedTuple):
    """The fields of tigerjax.data.rows.Batch."""

    tokens_BT: np.ndarray
    targets_BT: np.ndarray
    weights_BT: np.ndarray
    positions_BT: np.ndarray
    segment_ids_BT: np.ndarray


def random_batch(rows: int, seq_len: int, vocab_size: int) -> Batch:
    """Rows of random tokens, one segment per row."""
    tokens = np.random.default_rng(0).integers(0, vocab_size, (rows, seq_len + 1), dtype=np.int32)
    positions_BT = np.tile(np.arange(seq_len, dtype=np.int32), (rows, 1))
    ones_BT = np.ones((rows, seq_len), np.int32)
    return Batch(tokens[:, :-1], tokens[:, 1:], ones_BT.astype(np.float32), positions_BT, ones_BT)


def measure(model: ModelConfig, compute: ComputeConfig, *, rows: int, seq_len: int, steps: int) -> dict[str, float]:
    """Compile seconds, then seconds per step and tokens per second."""
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    optim = OptimConfig(
        peak_lr=1e-3, final_lr_fraction=0.1, warmup_steps=2, total_steps=1000, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip
    objective, tx = token_objective(Run(model, compute, MeshConfig()), mesh), make_optimizer(optim)
    state = init_state(objective, tx, mesh, seed=0)
    step = compile_step(objective, tx, optim, mesh)
    batch = jax.device_put(random_batch(rows, seq_len, model.vocab_size), mesh.devices.flat[0])
    started = time.perf_counter()
    state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    compile_s = time.perf_counter() - started
    seconds = []
    for _ in range(steps + 1):
        started = time.perf_counter()
        state, metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - started)
    seconds = seconds[1:]
    tokens = rows * seq_len
    return {
        "compile_s": compile_s,
        "step_s_best": min(seconds),
        "step_s_median": statistics.median(seconds),
        "tokens_per_s": tokens / statistics.median(seconds),
        "tokens_per_s_best": tokens / min(seconds),
        "model_gflop_per_s": model_flops(model, tokens=tokens, seq_len=seq_len) / min(seconds) / 1e9,
    }


class Run(NamedTuple):
    """`tigerjax.train.objective.Trained` without the rest of a run."""

    model: ModelConfig
    compute: ComputeConfig
    mesh: MeshConfig
    pipeline: PipelineConfig = PipelineConfig()
    objective: ObjectiveConfig = ObjectiveConfig()


def main() -> None:
    """Prints one line per case; --json FILE writes the same figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--remat", nargs="+", default=["none", "full"])
    parser.add_argument("--attention", default="reference")
    parser.add_argument("--chunk", nargs="+", type=int, default=[1024], help="loss_chunk_tokens")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--seq-len", type=int, default=128)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--mlp", type=int, default=384)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--vocab", type=int, default=3072)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", metavar="FILE")
    a = parser.parse_args()
    model = ModelConfig(
        num_layers=a.layers, model_dim=a.dim, mlp_dim=a.mlp, num_heads=a.heads, num_kv_heads=a.kv_heads,
        head_dim=a.dim // a.heads, vocab_size=a.vocab, padded_vocab_size=a.vocab, rope_base=10000.0, norm_eps=1e-5,
    )  # fmt: skip
    cases = []
    for dtype in a.dtype:
        for remat in a.remat:
            for chunk in a.chunk:
                compute = ComputeConfig(attention=a.attention, remat=remat, dtype=dtype, loss_chunk_tokens=chunk)
                figures = measure(model, compute, rows=a.rows, seq_len=a.seq_len, steps=a.steps)
                case = {"dtype": dtype, "remat": remat, "loss_chunk_tokens": chunk} | figures
                print(
                    f"{dtype:9} remat {remat:5} chunk {chunk:5}  {figures['tokens_per_s']:8.0f} tok/s median"
                    f"  {figures['tokens_per_s_best']:8.0f} best  compile {figures['compile_s']:.1f} s",
                    flush=True,
                )
                cases.append(case)
    if a.json:
        device = jax.devices()[0]
        with open(a.json, "w", encoding="utf-8") as f:
            json.dump({"device": device.device_kind, "sizes": vars(a), "cases": cases}, f, indent=1)


if __name__ == "__main__":
    main()
