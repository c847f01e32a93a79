"""SFT from dialogues to weights, as small as it gets: what cannot memorise 64 examples is broken somewhere."""

import dataclasses
import json
import random

import numpy as np
from face import Face
from tiny_run import SILENT, tiny_config

from tigerjax.data.rows import Batch, make_batch, pack, row_weights
from tigerjax.tokenizer.chat import encode_chat
from tigerjax.train.loop import train

EXAMPLES, LENGTH, STEPS = 64, 48, 150
LOSS_NATS = 0.01  # the design's figure


class Letters(Face):
    """One id a lower-case letter."""

    bos, eos, ins, res, pad, folder = 1, 2, 30, 31, 32, "letters"

    def encode(self, text: str) -> list[int]:
        return [3 + ord(c) - ord("a") for c in text]


class OneBatch:
    """All examples in every batch."""

    def __init__(self, batch: Batch):
        self.batch, self.index = batch, 0

    def __next__(self) -> Batch:
        self.index += 1
        return self.batch

    def state(self) -> dict[str, int]:
        return {"index": self.index}

    def restore(self, state: dict[str, int]) -> None:
        self.index = state["index"]

    def seen(self) -> dict[str, dict[str, float]]:
        return {}


def test_sft_overfits_64_examples_to_a_hundredth_of_a_nat(tmp_path):
    rng = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    asked = ["".join(rng.sample(letters, 3)) for _ in range(EXAMPLES)]
    assert len(set(asked)) == EXAMPLES
    talks = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": "".join(rng.choices(letters, k=3))}]
        for q in asked
    ]
    packed = pack([encode_chat(Letters(), talk) for talk in talks], LENGTH)
    assert not packed.overlong and not packed.weightless
    # The loss is on three letters and the eos of each: questions cannot be known, and are not asked for.
    assert sum(np.count_nonzero(row_weights(row)) for row in packed.rows) == 4 * EXAMPLES
    config = tiny_config(total_steps=STEPS, every_steps=STEPS)
    config = dataclasses.replace(config, global_batch_size=len(packed.rows), log_every_steps=STEPS // 3)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, seq_len=LENGTH))
    loader = OneBatch(make_batch(packed.rows))
    train(config, loader, run_dir=tmp_path, reporting=SILENT)
    curve = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert curve[-1]["loss_nats"] < LOSS_NATS and curve[-1]["accuracy"] == 1.0
