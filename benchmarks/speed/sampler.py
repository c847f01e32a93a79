"""Tokens per second of the sampler beside `transformers.generate`: 8 prompts x 10 candidates x 128 tokens.

    JAX_PLATFORMS=cpu python benchmarks/speed/sampler.py --json sampler.json

Both sides run the same random weights (28 million, grouped-query attention) on the same device, in turns: on a CPU in
float32, on an NVIDIA GPU in bfloat16, at temperature 0.9 and top-p 0.95. The rates are over all turns together.
Transformers gets the number of threads that is fastest in a short trial, because on shared cores a second thread can
cost more than it brings. Every drawn token counts: an answer of ours ends early only where a marker is drawn, which is
rare. The first call compiles and is timed apart. Needs the `hf` extra; `--ours` leaves transformers out.

Then answers of different lengths: 24 prompts x 10 candidates, and 80 x 10, of a model whose answers may end at any
token. `fill` is the share of the positions of all decode steps that gave a token of an answer; it is the same on every
machine. `share` is tokens per second divided by the rate of full slots, which is measured before and after. While the
last answers end, slots stay empty. That costs the same for any number of prompts, so it weighs less in a longer run.
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import FLOAT32, ModelConfig
from tigerjax.convert.hf import Export, to_hf
from tigerjax.model.layers import init
from tigerjax.model.llama import model as llama
from tigerjax.model.llama.numbers import parameter_count
from tigerjax.sample.engine import SamplingConfig, Stats, generate

PROMPTS, CANDIDATES, NEW_TOKENS, PROMPT_TOKENS = 8, 10, 128, 60
RAGGED_PROMPTS: tuple[int, ...] = (24, 80)
TURNS, TRIAL_TOKENS = 2, 16
STOPS = range(5, 205)  # ids that end a ragged answer: one in a hundred of the vocabulary
CONFIG = ModelConfig(
    num_layers=8,
    model_dim=384,
    mlp_dim=1024,
    num_heads=6,
    num_kv_heads=2,
    head_dim=64,
    vocab_size=20_000,
    padded_vocab_size=20_096,
    rope_base=10_000.0,
    norm_eps=1e-5,
)


class NumberTokenizer:
    """Ids are written as numbers; eos and pad are ids that the model cannot draw, INS and RES are 3 and 4."""

    folder = "numbers"
    sha256 = "0" * 64
    size = 20_000
    bos, eos, ins, res, pad = 1, 20_001, 3, 4, 20_002
    template, opening, ends = None, (), frozenset({eos})

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def ours(
    weights: Any, prompts: list[dict[str, str]], seed: int, stop_ids: tuple[int, ...] = ()
) -> tuple[float, int, Stats]:
    """(seconds, tokens of the answers, what was done)."""
    sampling = SamplingConfig(n=CANDIDATES, max_new_tokens=NEW_TOKENS, stop_ids=stop_ids, seed=seed)
    stats, started = Stats(), time.monotonic()
    compute = dataclasses.replace(FLOAT32, dtype="bfloat16") if jax.default_backend() == "gpu" else FLOAT32
    model = Loaded(config=CONFIG, weights=weights, tokenizer=NumberTokenizer(), compute=compute, sha256="b")
    records = list(generate(model, prompts, sampling, stats=stats))
    return time.monotonic() - started, sum(c["ntok"] for r in records for c in r["candidates"]), stats


def transformers_model(weights: Any) -> Any:
    import torch
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        to_hf(weights, CONFIG, Path(folder) / "hf", Export(tokenizer=None))
        gpu = jax.default_backend() == "gpu"
        model: Any = LlamaForCausalLM.from_pretrained(
            Path(folder) / "hf", dtype=torch.bfloat16 if gpu else torch.float32
        )
        return model.to("cuda" if gpu else "cpu")


def theirs(model: Any, prompts: list[dict[str, str]], new_tokens: int, threads: int) -> tuple[float, int]:
    """(seconds, tokens) of `generate`."""
    import torch

    torch.set_num_threads(threads)
    tok = NumberTokenizer()
    ids = torch.tensor([[tok.ins, *tok.encode(p["text"]), tok.res] for p in prompts]).to(model.device)
    started = time.monotonic()
    with torch.no_grad():
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            temperature=0.9,
            top_p=0.95,
            top_k=0,
            num_return_sequences=CANDIDATES,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            pad_token_id=0,
        ).cpu()
    return time.monotonic() - started, out[:, ids.shape[1] :].numel()


def beside(weights: Any, prompts: list[dict[str, str]], leave_out: bool) -> dict[str, Any]:
    """Rates of both, in turns."""
    mine, other = np.zeros(2), np.zeros(2)  # seconds, tokens
    figures: dict[str, Any] = {}
    if not leave_out:
        model = transformers_model(weights)
        theirs(model, prompts[:1], 1, 1)
        trial = {n: theirs(model, prompts, TRIAL_TOKENS, n)[0] for n in sorted({1, os.cpu_count() or 1})}
        threads = min(trial, key=lambda n: trial[n])
        figures = {"transformers_threads": threads}
    for turn in range(TURNS):
        mine += ours(weights, prompts, seed=1 + turn)[:2]
        if not leave_out:
            other += theirs(model, prompts, NEW_TOKENS, threads)
    figures |= {"tokens": int(mine[1]), "tokens_per_s": round(mine[1] / mine[0], 1)}
    if not leave_out:
        figures["transformers_tokens"] = int(other[1])
        figures["transformers_tokens_per_s"] = round(other[1] / other[0], 1)
        figures["ratio"] = round((mine[1] / mine[0]) / (other[1] / other[0]), 2)
    return figures


def ragged(weights: Any, many: list[dict[str, str]]) -> dict[str, Any]:
    """Rates at ragged lengths, with the peak before and after each."""
    stops = tuple(STOPS)
    figures: dict[str, Any] = {}
    ours(weights, many[:1], seed=2, stop_ids=stops)  # compiles
    for count in RAGGED_PROMPTS:
        before = ours(weights, many[:PROMPTS], seed=3)
        seconds, tokens, stats = ours(weights, many[:count], seed=2, stop_ids=stops)
        after = ours(weights, many[:PROMPTS], seed=4)
        peak = (before[1] + after[1]) / (before[0] + after[0])
        figures |= {
            f"ragged_{count}_mean_tokens": round(tokens / (count * CANDIDATES), 1),
            f"ragged_{count}_tokens_per_s": round(tokens / seconds, 1),
            f"ragged_{count}_peak_tokens_per_s": round(peak, 1),
            f"ragged_{count}_fill": round(stats.drawn / stats.decode_slots, 3),
            f"ragged_{count}_share": round(tokens / seconds / peak, 3),
        }
    return figures


def main() -> None:
    global CANDIDATES, NEW_TOKENS, RAGGED_PROMPTS, TURNS, TRIAL_TOKENS
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours", action="store_true", help="leave transformers out")
    parser.add_argument("--tiny", action="store_true", help="a few tokens of a few answers: does it run?")
    args = parser.parse_args()
    if args.tiny:
        CANDIDATES, NEW_TOKENS, RAGGED_PROMPTS, TURNS, TRIAL_TOKENS = 2, 4, (2,), 1, 2
    weights = nn.unbox(init(llama.Llama(CONFIG, FLOAT32), jax.random.key(0)))
    # A trained model's nucleus is narrow, and a uniform one is the sampler's slowest case: the head is scaled so
    # that the entropy lies between.
    weights["head"] = weights["head"] * 12
    rng = np.random.default_rng(0)
    many = [
        {"prompt_id": str(i), "text": " ".join(map(str, rng.integers(5, 20_000, PROMPT_TOKENS)))}
        for i in range(max(RAGGED_PROMPTS))
    ]
    first, _, stats = ours(weights, many[:PROMPTS], seed=0)
    figures: dict[str, Any] = {
        "parameters": parameter_count(CONFIG),
        "first_call_s": round(first, 2),
        "compilations": stats.compilations,
    }
    figures |= beside(weights, many[:PROMPTS], args.ours) | ragged(weights, many)
    figures |= {"cpus": os.cpu_count(), "load_average_1m": round(os.getloadavg()[0], 2)}
    for key, value in figures.items():
        print(f"{key:28} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
