"""One process of several that sample, evaluate and score with one model: MODEL REWARD OUT, all read and written there.

What it computes goes to OUT/samples and OUT/PROCESS.json, so that processes can be compared with each other.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from tiny_model import COMPUTE, ByteTokenizer

from tigerjax.command import cli
from tigerjax.config import MeshConfig
from tigerjax.processes import hosts
from tigerjax.processes.rendezvous import HostsConfig

MESH = MeshConfig(fsdp=2, tensor=2)
WAITS = HostsConfig(barrier_timeout_s=2000, stall_timeout_s=2000, start_timeout_s=2000)
PROMPTS = [
    {"prompt_id": f"p{n}", "text": text} for n, text in enumerate(["one", "two and three", "四", "five " * 9, "6"])
]


def use(model: Path, reward: Path, out: Path, mesh: Any) -> dict[str, Any]:
    """Figures of the sampler, log-likelihoods, greedy continuations and rewards; samples are in OUT/samples."""
    from tigerjax.align.reward import Scorer
    from tigerjax.checkpoint.loaded import load
    from tigerjax.evaluate.answerer import Answerer
    from tigerjax.sample.engine import Batching, SamplingConfig
    from tigerjax.sample.folder import sample_prompts

    tokenizer = ByteTokenizer()
    loaded = load(model, tokenizer, compute=COMPUTE, mesh=mesh)
    sampling = SamplingConfig(n=3, max_new_tokens=7, context=64, seed=3)
    figures = sample_prompts(loaded, PROMPTS, out / "samples", sampling, batching=Batching(prompts=2, rows=4))
    answerer = Answerer(loaded, context=160, rows=4, cache=out / "cache.jsonl")
    rng = np.random.default_rng(1)
    requests = [(rng.integers(3, 259, n).tolist(), n // 2) for n in (4, 9, 30, 12, 50)]
    stem, context = rng.integers(3, 259, 100).tolist(), rng.integers(3, 259, 30).tolist()
    together = [([*stem, *rng.integers(3, 259, 40).tolist()], 139) for _ in range(12)]
    together += [([*context, letter], 30) for letter in (7, 8, 9)]
    scorer = Scorer(load(reward, tokenizer, compute=COMPUTE, mesh=mesh, reward=True), seq_len=64, rows=4)
    return {
        "sha256": loaded.sha256,
        "prompts": figures["prompts"],
        "tokens": figures["tokens"],
        "loglikelihoods": answerer.loglikelihoods([*requests, *together]),
        "continuations": answerer.continuations([(ids[:6], 5) for ids, _ in requests]),
        "rewards": scorer.raw_ids([ids for ids, _ in requests]).tolist(),
    }


if __name__ == "__main__":
    cli.quiet_start()
    hosts.start(WAITS)
    import jax

    from tigerjax.mesh import make_mesh

    with hosts.together():
        model, reward, out = map(Path, sys.argv[1:])
        found = use(model, reward, out, make_mesh(MESH))
        (out / f"{jax.process_index()}.json").write_text(json.dumps(found), encoding="utf-8")
