"""The training step beside Hugging Face Transformers on PyTorch: tokens/s and peak memory, same model, same CPU.

    python benchmarks/train_beside_transformers.py --json train.json
    python benchmarks/train_beside_transformers.py --repeats 5 --steps 4

A Llama of 30 million weights with grouped queries (vocabulary 8,192), 8 rows of 256 tokens, float32, AdamW with
clipping on both sides. The two run in turn, each time in a process of its own, whose peak memory is theirs alone; the
first step, which compiles or warms up, is not timed. Figures are medians over all timed steps. Needs the `hf` extra.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROWS, SEQ_LEN = 8, 256
SIZES: dict[str, Any] = {
    "num_layers": 8, "model_dim": 512, "mlp_dim": 1376, "num_heads": 8, "num_kv_heads": 4, "head_dim": 64,
    "vocab_size": 8192, "padded_vocab_size": 8192, "rope_base": 10_000.0, "norm_eps": 1e-5,
}  # fmt: skip
SIDES = ("tigerjax", "transformers")


def tigerjax_seconds(steps: int) -> tuple[list[float], int]:
    """Seconds of each step, and the number of weights."""
    import jax
    from train_step import random_batch

    from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig, OptimConfig, PipelineConfig
    from tigerjax.mesh import make_mesh
    from tigerjax.model.llama import parameter_count
    from tigerjax.train.objective import token_objective
    from tigerjax.train.optim import make_optimizer
    from tigerjax.train.state import init_state
    from tigerjax.train.step import compile_step

    model = ModelConfig(**SIZES)
    compute = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=ROWS * SEQ_LEN)
    optim = OptimConfig(
        peak_lr=1e-4, final_lr_fraction=1.0, warmup_steps=1, total_steps=1000, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip

    class Run:
        """What the objective reads of a RunConfig."""

    Run.model, Run.compute, Run.mesh, Run.pipeline = model, compute, MeshConfig(), PipelineConfig()
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    objective, tx = token_objective(Run, mesh), make_optimizer(optim)
    state, step = init_state(objective, tx, mesh, seed=0), compile_step(objective, tx, optim, mesh)
    batch, seconds = jax.device_put(random_batch(ROWS, SEQ_LEN, model.vocab_size)), []
    for _ in range(steps + 1):
        start = time.perf_counter()
        state, values = step(state, batch)
        jax.block_until_ready((state, values))
        seconds.append(time.perf_counter() - start)
    return seconds[1:], parameter_count(model)


def transformers_seconds(steps: int) -> tuple[list[float], int]:
    """Seconds of each step, and the number of weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            num_hidden_layers=SIZES["num_layers"], hidden_size=SIZES["model_dim"], intermediate_size=SIZES["mlp_dim"],
            num_attention_heads=SIZES["num_heads"], num_key_value_heads=SIZES["num_kv_heads"],
            vocab_size=SIZES["vocab_size"], tie_word_embeddings=False,
        )
    )  # fmt: skip
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1)
    ids, seconds = torch.randint(0, SIZES["vocab_size"], (ROWS, SEQ_LEN)), []
    for _ in range(steps + 1):
        start = time.perf_counter()
        adam.zero_grad(set_to_none=True)
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        seconds.append(time.perf_counter() - start)
    return seconds[1:], sum(p.numel() for p in model.parameters())


def measure(side: str, steps: int) -> dict[str, Any]:
    seconds, weights = (tigerjax_seconds if side == "tigerjax" else transformers_seconds)(steps)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"seconds": seconds, "weights": weights, "peak_gb": peak_gb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="timed in each repeat")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=SIDES, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.only:
        print(json.dumps(measure(a.only, a.steps)))
        return
    runs: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for _ in range(a.repeats):
        for side, found in runs.items():
            command = [sys.executable, __file__, "--only", side, "--steps", str(a.steps)]
            env = os.environ | {"JAX_PLATFORMS": "cpu"}
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{side} failed: {done.stderr.strip()[-1000:]}")
            found.append(json.loads(done.stdout.splitlines()[-1]))
    figures = {}
    for side, found in runs.items():
        seconds = [s for run in found for s in run["seconds"]]
        figures[side] = {
            "weights": found[0]["weights"],
            "tokens_per_s": ROWS * SEQ_LEN / statistics.median(seconds),
            "tokens_per_s_best": ROWS * SEQ_LEN / min(seconds),
            "peak_gb": max(run["peak_gb"] for run in found),
        }
        print(
            f"{side:13} {figures[side]['weights'] / 1e6:5.1f} M weights {figures[side]['tokens_per_s']:7.0f} tokens/s"
            f" (best {figures[side]['tokens_per_s_best']:.0f}), peak {figures[side]['peak_gb']:.2f} GB"
        )
    if a.json:
        a.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
