"""Held-out sets of the tiny run, in memory: 11 rows of two languages and sources, and 3 rows of two tasks."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tiny_run import LENGTH, segments

from tigerjax.data.rows import make_row

GIVEN = "not given"


class Held:
    """Rows that validation reads; `on_read` is called before each read."""

    def __init__(self, name: str, first: int, groups: list[tuple[Any, int]], on_read: Callable[[], None] | None = None):
        self.name, self.groups, self.on_read = name, groups, on_read
        self.rows = sum(count for _, count in groups)
        texts = [row for index in (first, first + 1) for row in segments(index)][: self.rows]
        self.made = np.stack([_row(parts) for parts in texts])

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.made.tobytes()).hexdigest()

    def read(self, indices: Sequence[int]) -> np.ndarray:
        if self.on_read is not None:
            self.on_read()
        return self.made[list(indices)]


def _row(parts: list[np.ndarray]) -> np.ndarray:
    """The parts as segments, with the loss on every token but the first two of the row."""
    ids = np.concatenate([np.full(len(part), 1 + i) for i, part in enumerate(parts)])
    blank = LENGTH - len(ids)
    losses = (np.arange(LENGTH) >= 2) & (np.pad(ids, (0, blank)) > 0)
    return make_row(np.pad(np.concatenate(parts), (0, blank)), np.pad(ids, (0, blank)), losses)


def held_out(on_read: Callable[[], None] | None = None) -> list[Held]:
    wiki = [(("en", "books", GIVEN), 4), (("en", "news", GIVEN), 1), (("zh", "books", GIVEN), 6)]
    return [
        Held("sft", 1000, [((GIVEN, GIVEN, "chat"), 2), ((GIVEN, GIVEN, "qa"), 1)]),
        Held("wiki", 2000, wiki, on_read),
    ]
