"""The run that the tests of this folder train: two layers, 64 columns, rows of 16 tokens in three segments."""

import sys
from pathlib import Path

import numpy as np

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
)
from tigerjax.data.rows import Batch, make_batch, make_row
from tigerjax.train.metrics import Reporting

ROWS, LENGTH, VOCAB = 8, 16, 60


def tiny_config(*, mesh=None, accumulate=1, total_steps=6, every_steps=3, keep=3, model=None, seed=0) -> RunConfig:
    """No two sizes of the model are equal, but for those that the meshes of the tests must divide."""
    sizes = dict(
        num_layers=2, model_dim=32, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=10, vocab_size=VOCAB,
        padded_vocab_size=64, rope_base=5000.0, norm_eps=1e-4,
    )  # fmt: skip
    optim = OptimConfig(
        peak_lr=1e-2, final_lr_fraction=0.1, warmup_steps=2, total_steps=total_steps, beta1=0.9, beta2=0.95,
        eps=1e-8, weight_decay=0.1, clip_norm=1.0, gradient_accumulation_steps=accumulate,
    )  # fmt: skip
    return RunConfig(
        name="tiny",
        model=ModelConfig(**(sizes | (model or {}))),
        # 40 tokens: chunks of 5 positions of 8 rows, which do not divide the 16 positions
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=40),
        mesh=mesh or MeshConfig(),
        optim=optim,
        data=DataConfig(mixture="tiny", modules=(), tokenizer="", cache_dir="", seq_len=LENGTH),
        checkpoint=CheckpointConfig(every_steps=every_steps, keep=keep),
        global_batch_size=ROWS,
        seed=seed,
        log_every_steps=1,
    )


def segments(index: int) -> list[list[np.ndarray]]:
    """Of batch `index`: two or three short segments a row, counting upwards so that there is something to learn."""
    rng = np.random.default_rng([7, index])
    rows = []
    for _ in range(ROWS):
        lengths = [int(n) for n in rng.integers(3, 6, 3)]
        rows.append([(int(rng.integers(0, VOCAB)) + np.arange(n)) % VOCAB for n in lengths])
    return rows


def tiny_batch(index: int) -> Batch:
    """Packed: the segments of a row one after the other, then padding."""
    rows = []
    for parts in segments(index):
        ids = [np.full(len(part), 1 + i) for i, part in enumerate(parts)]
        pad = np.zeros(LENGTH - sum(map(len, parts)), int)
        tokens, segment_ids = np.concatenate([*parts, pad]), np.concatenate([*ids, pad])
        rows.append(make_row(tokens, segment_ids, (segment_ids > 0).astype(np.float32)))
    return make_batch(rows)


SILENT = Reporting(progress=False, echo=lambda line: None)


class TinyLoader:
    """Batch i is tiny_batch(i). RuntimeError instead of batch `crash_at`; NaN weights from batch `nan_from` on."""

    tokenizer_sha256 = "one"

    def __init__(self, *, crash_at: int | None = None, nan_from: int | None = None):
        self.index, self.crash_at, self.nan_from = 0, crash_at, nan_from

    def __next__(self) -> Batch:
        if self.index == self.crash_at:
            raise RuntimeError("the machine is gone")
        batch = tiny_batch(self.index)
        if self.nan_from is not None and self.index >= self.nan_from:
            batch = batch._replace(weights_BT=batch.weights_BT * np.nan)
        self.index += 1
        return batch

    def state(self) -> dict[str, int]:
        return {"index": self.index}

    def restore(self, state: dict[str, int]) -> None:
        self.index = state["index"]

    def seen(self) -> dict[str, dict[str, float]]:
        return {"tiny": {"tokens": self.index, "share": 1.0, "epoch": 0.0}}


if __name__ == "__main__":  # a training process for the tests that kill one: RUN_DIR TOTAL_STEPS EVERY_STEPS
    from tigerjax.train.loop import train

    config = tiny_config(total_steps=int(sys.argv[2]), every_steps=int(sys.argv[3]))
    train(config, TinyLoader(), run_dir=Path(sys.argv[1]), reporting=Reporting(progress=False))
