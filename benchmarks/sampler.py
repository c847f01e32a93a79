"""Tokens a second of the sampler beside `transformers.generate`: 8 prompts x 10 candidates x 128 tokens, float32.

    python benchmarks/sampler.py --json sampler.json

Both run the same random weights (28 million, grouped-query attention) on this machine's CPU, one after the other, at
temperature 0.9 and top-p 0.95. Tokens are counted as drawn: an answer of ours ends early only where a marker is drawn,
which is rare. The first call, which compiles, is timed apart. Needs the `hf` extra; `--ours` leaves transformers out.

Then ragged answers: 24 prompts x 10 candidates of a model in which every answer may end at any token. `ragged_fill` is
the share of the work of all decode steps that drew a token which was kept, on any machine; `ragged_share` is tokens a
second over those of full slots, here.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from tigerjax.config import ModelConfig
from tigerjax.convert.hf import to_hf
from tigerjax.model import llama
from tigerjax.sample.engine import FLOAT32, SamplingConfig, Stats, generate

PROMPTS, CANDIDATES, NEW_TOKENS, PROMPT_TOKENS = 8, 10, 128, 60
RAGGED_PROMPTS = 24
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
    bos, eos, ins, res, pad = 1, 20_001, 3, 4, 20_002

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        return " ".join(map(str, ids))


def ours(
    weights: Any, prompts: list[dict[str, str]], seed: int, stop_ids: tuple[int, ...] = ()
) -> tuple[float, int, Stats]:
    """(seconds, tokens of the answers, what was done)."""
    sampling = SamplingConfig(n=CANDIDATES, max_new_tokens=NEW_TOKENS, stop_ids=stop_ids)
    stats, started = Stats(), time.monotonic()
    model = (CONFIG, weights)
    records = list(generate(model, NumberTokenizer(), prompts, sampling, seed=seed, model_sha="b", stats=stats))
    return time.monotonic() - started, sum(c["ntok"] for r in records for c in r["candidates"]), stats


def theirs(weights: Any, prompts: list[dict[str, str]]) -> tuple[float, int]:
    import torch
    from transformers import LlamaForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        to_hf(weights, CONFIG, Path(folder) / "hf", tokenizer=None)
        model = LlamaForCausalLM.from_pretrained(Path(folder) / "hf", dtype=torch.float32)
    tok = NumberTokenizer()
    ids = torch.tensor([[tok.ins, *tok.encode(p["text"]), tok.res] for p in prompts])
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
            min_new_tokens=NEW_TOKENS,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        )
    return time.monotonic() - started, out[:, ids.shape[1] :].numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ours", action="store_true", help="leave transformers out")
    args = parser.parse_args()
    weights = nn.unbox(llama.init(llama.Llama(CONFIG, FLOAT32), jax.random.key(0)))
    # A trained model's nucleus is narrow, and a uniform one is the sampler's slowest case: the head is scaled so
    # that the entropy lies between.
    weights["head"] = weights["head"] * 12
    rng = np.random.default_rng(0)
    many = [
        {"prompt_id": str(i), "text": " ".join(map(str, rng.integers(5, 20_000, PROMPT_TOKENS)))}
        for i in range(RAGGED_PROMPTS)
    ]
    prompts = many[:PROMPTS]
    first, _, stats = ours(weights, prompts, seed=0)
    seconds, tokens, _ = ours(weights, prompts, seed=1)
    figures: dict[str, Any] = {
        "parameters": llama.parameter_count(CONFIG),
        "tokens": tokens,
        "tokens_per_s": round(tokens / seconds, 1),
        "first_call_s": round(first, 2),
        "second_call_s": round(seconds, 2),
        "compilations": stats.compilations,
    }
    if not args.ours:
        hf_seconds, hf_tokens = theirs(weights, prompts)
        figures |= {
            "transformers_tokens": hf_tokens,
            "transformers_tokens_per_s": round(hf_tokens / hf_seconds, 1),
            "ratio": round(tokens / seconds / (hf_tokens / hf_seconds), 2),
        }
    ours(weights, many[:1], seed=2, stop_ids=tuple(STOPS))  # compiles
    seconds, ragged, stats = ours(weights, many, seed=2, stop_ids=tuple(STOPS))
    figures |= {
        "ragged_mean_tokens": round(ragged / (RAGGED_PROMPTS * CANDIDATES), 1),
        "ragged_tokens_per_s": round(ragged / seconds, 1),
        "ragged_fill": round(stats.drawn / stats.decode_slots, 3),
        "ragged_share": round(ragged / seconds / figures["tokens_per_s"], 3),
        "cpus": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }
    for key, value in figures.items():
        print(f"{key:28} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
