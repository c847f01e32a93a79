"""The training step beside Hugging Face Transformers on PyTorch: tokens/s and peak memory, same model, same device.

    JAX_PLATFORMS=cpu python benchmarks/speed/train_beside_transformers.py --json train.json
    JAX_PLATFORMS=cpu python benchmarks/speed/train_beside_transformers.py --repeats 5 --steps 4
    python benchmarks/speed/train_beside_transformers.py --case 1b 7b_wide --steps 10 --json train_gpu.json

On a CPU both sides compute in float32, ours with the plain attention. On an NVIDIA GPU they compute in bfloat16, with
weights and AdamW in float32; ours has cuDNN's attention, theirs PyTorch's `sdpa`, autocast and the fused AdamW. There a
third side is Transformers under `torch.compile`. All sides clip gradients, and none recomputes activations. The sides
take turns, each time in a process of its own, so the peak memory is that of one side: of the device on a GPU, of the
process on a CPU. The first two steps compile or warm up and are not timed. Figures are medians over all timed steps.
MFU counts the same arithmetic for all sides. Needs the `hf` extra.
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

# The sizes of `30m` are those that others were measured at; `1b` is TinyLlama's (Zhang et al. 2024, table 1), with its
# 4 groups of queries; `7b_wide` is four layers of tiger_7b with its vocabulary.
CASES: dict[str, dict[str, Any]] = {
    "30m": {
        "rows": 8, "seq_len": 256, "num_layers": 8, "model_dim": 512, "mlp_dim": 1376, "num_heads": 8,
        "num_kv_heads": 4, "head_dim": 64, "vocab_size": 8192, "padded_vocab_size": 8192,
    },
    "1b": {
        "rows": 8, "seq_len": 2048, "num_layers": 22, "model_dim": 2048, "mlp_dim": 5632, "num_heads": 32,
        "num_kv_heads": 4, "head_dim": 64, "vocab_size": 32_000, "padded_vocab_size": 32_000,
    },
    "7b_wide": {
        "rows": 4, "seq_len": 4096, "num_layers": 4, "model_dim": 4096, "mlp_dim": 11_008, "num_heads": 32,
        "num_kv_heads": 32, "head_dim": 128, "vocab_size": 60_515, "padded_vocab_size": 60_928,
    },
}  # fmt: skip
CPU_SIDES = ("tigerjax", "transformers")
GPU_SIDES = (*CPU_SIDES, "transformers_compiled")
WARM_UP = 2


def model_config(case: str) -> Any:
    from tigerjax.config import ModelConfig

    sizes = {name: size for name, size in CASES[case].items() if name not in ("rows", "seq_len")}
    return ModelConfig(**sizes, rope_base=10_000.0, norm_eps=1e-5)


def tigerjax_seconds(case: str, steps: int) -> dict[str, Any]:
    """Seconds of each step, the number of parameters, peak bytes of the device (None on a CPU)."""
    import jax
    from train_step import Run, random_batch

    from tigerjax.config import ComputeConfig, MeshConfig, OptimConfig
    from tigerjax.mesh import make_mesh
    from tigerjax.model.llama.numbers import parameter_count
    from tigerjax.train.objective import token_objective
    from tigerjax.train.optim import make_optimizer
    from tigerjax.train.state import init_state
    from tigerjax.train.step import compile_step

    model, gpu = model_config(case), jax.default_backend() == "gpu"
    rows, seq_len = CASES[case]["rows"], CASES[case]["seq_len"]
    compute = ComputeConfig(
        attention="cudnn" if gpu else "reference", remat="none", dtype="bfloat16" if gpu else "float32",
        loss_chunk_tokens=min(rows * seq_len, 2048),
    )  # fmt: skip
    optim = OptimConfig(
        peak_lr=1e-4, final_lr_fraction=1.0, warmup_steps=1, total_steps=1000, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip

    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    objective, tx = token_objective(Run(model, compute, MeshConfig()), mesh), make_optimizer(optim)
    state, step = init_state(objective, tx, mesh, seed=0), compile_step(objective, tx, optim, mesh)
    batch, seconds = jax.device_put(random_batch(rows, seq_len, model.vocab_size)), []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        state, values = step(state, batch)
        jax.block_until_ready((state, values))
        seconds.append(time.perf_counter() - start)
    memory = jax.devices()[0].memory_stats() or {}
    return {"seconds": seconds, "weights": parameter_count(model), "device_bytes": memory.get("peak_bytes_in_use")}


def transformers_seconds(case: str, steps: int, *, compiled: bool) -> dict[str, Any]:
    """Seconds of each step, the number of parameters, peak bytes of the device (None on a CPU)."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes, gpu = CASES[case], torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    torch.manual_seed(0)
    make_config: Any = LlamaConfig  # its annotations leave attn_implementation out
    config = make_config(
        num_hidden_layers=sizes["num_layers"], hidden_size=sizes["model_dim"], intermediate_size=sizes["mlp_dim"],
        num_attention_heads=sizes["num_heads"], num_key_value_heads=sizes["num_kv_heads"],
        vocab_size=sizes["padded_vocab_size"], tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip
    with torch.device(device):
        model = LlamaForCausalLM(config)
    adam = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=gpu)
    run = torch.compile(model) if compiled else model
    ids = torch.randint(0, sizes["vocab_size"], (sizes["rows"], sizes["seq_len"]), device=device)
    seconds = []
    for _ in range(WARM_UP + steps):
        start = time.perf_counter()
        adam.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=gpu):
            loss = run(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        if gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    device_bytes = torch.cuda.max_memory_allocated() if gpu else None
    return {"seconds": seconds, "weights": sum(p.numel() for p in model.parameters()), "device_bytes": device_bytes}


def measure(side: str, case: str, steps: int) -> dict[str, Any]:
    compiled = side == "transformers_compiled"
    measured = (
        tigerjax_seconds(case, steps) if side == "tigerjax" else transformers_seconds(case, steps, compiled=compiled)
    )
    process_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "seconds": measured["seconds"][WARM_UP:],
        "first_step_s": measured["seconds"][0],
        "weights": measured["weights"],
        "peak_gb": (measured["device_bytes"] or process_bytes) / 1e9,
    }


def in_own_process(side: str, case: str, steps: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--only", side, "--case", case, "--steps", str(steps)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} of {case} failed: {done.stderr.strip()[-1000:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def summary(case: str, runs: list[dict[str, Any]], device_kind: str) -> dict[str, Any]:
    from tigerjax.model.llama.numbers import model_flops
    from tigerjax.train.metrics import mfu

    seconds = [s for run in runs for s in run["seconds"]]
    seq_len, tokens = CASES[case]["seq_len"], CASES[case]["rows"] * CASES[case]["seq_len"]
    rate = tokens / statistics.median(seconds)
    return {
        "weights": runs[0]["weights"],
        "tokens_per_s": rate,
        "tokens_per_s_best": tokens / min(seconds),
        "mfu": mfu(model_flops(model_config(case), tokens=rate, seq_len=seq_len), device_kind, 1),
        "peak_gb": max(run["peak_gb"] for run in runs),
        "first_step_s": statistics.median(run["first_step_s"] for run in runs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=["30m"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="timed in each repeat")
    parser.add_argument("--json", type=Path, help="written after each case")
    parser.add_argument("--only", choices=GPU_SIDES, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.only:
        print(json.dumps(measure(a.only, a.case[0], a.steps)))
        return
    # The device is asked in a process that ends: on a GPU, this one would hold memory.
    asked = "import jax; print(jax.default_backend(), jax.devices()[0].device_kind, sep='\\n')"
    backend, device_kind = subprocess.check_output([sys.executable, "-c", asked], text=True).splitlines()[-2:]
    figures: dict[str, Any] = {"device": device_kind}
    print(f"device {device_kind}")
    for case in a.case:
        runs: dict[str, list[dict[str, Any]]] = {side: [] for side in (GPU_SIDES if backend == "gpu" else CPU_SIDES)}
        for _ in range(a.repeats):
            for side, measured in runs.items():
                measured.append(in_own_process(side, case, a.steps))
        figures[case] = {side: summary(case, measured, device_kind) for side, measured in runs.items()}
        for side, f in figures[case].items():
            share = "" if f["mfu"] is None else f", MFU {f['mfu']:.1%}"
            print(
                f"{case:8} {side:21} {f['weights'] / 1e6:6.1f} M parameters {f['tokens_per_s']:8.0f} tokens/s"
                f" (best {f['tokens_per_s_best']:.0f}){share}, peak {f['peak_gb']:.2f} GB,"
                f" first step {f['first_step_s']:.1f} s",
                flush=True,
            )
        if a.json:
            a.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
