"""Answers and tokens per second that a reward model of 20 million parameters scores on this machine's CPU, float32.

    python benchmarks/speed/reward_scoring.py --json reward_scoring.json

Answers have log-normal lengths (median 90 tokens, at most 400), after prompts of 60 tokens. The first call, which
compiles one shape per length bucket, is not timed. `useful` is the share of the positions computed that held a token.
"""

import argparse
import json
import os
import time
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from sampler import CONFIG, PROMPT_TOKENS, NumberTokenizer

from tigerjax.align.reward import SMALLEST_BUCKET, Scorer
from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import FLOAT32
from tigerjax.model import reward
from tigerjax.model.layers import init

ANSWERS, ROWS, SEQ_LEN = 512, 32, 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--answers", type=int, default=ANSWERS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    weights = nn.unbox(init(reward.RewardModel(CONFIG, FLOAT32), jax.random.key(0)))
    extra = {"calibration": {"mean": 0.0, "std": 1.0, "n": 2}, "truncation_penalty": 2.0}
    model = Loaded(config=CONFIG, weights=weights, tokenizer=NumberTokenizer(), compute=FLOAT32, sha256="", extra=extra)
    scorer = Scorer(model, seq_len=SEQ_LEN, rows=ROWS)
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(90), 0.7, args.answers).astype(int), 1, 400)
    ids = [rng.integers(5, 20_000, PROMPT_TOKENS + n).tolist() for n in lengths]
    scorer.raw_ids(ids)
    started = time.monotonic()
    scorer.raw_ids(ids)
    seconds, tokens = time.monotonic() - started, sum(map(len, ids))
    padded = [max(SMALLEST_BUCKET, 1 << (len(one) - 1).bit_length()) for one in ids]
    batches = {length: -(-padded.count(length) // ROWS) for length in set(padded)}
    figures = {
        "parameters": sum(w.size for w in jax.tree.leaves(weights)),
        "answers_per_s": round(args.answers / seconds, 1),
        "tokens_per_s": round(tokens / seconds, 1),
        "useful": round(tokens / sum(length * ROWS * n for length, n in batches.items()), 3),
        "compilations": len(batches),
        "cpus": os.cpu_count(),
        "load_average_1m": round(os.getloadavg()[0], 2),
    }
    for key, value in figures.items():
        print(f"{key:28} {value}")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
