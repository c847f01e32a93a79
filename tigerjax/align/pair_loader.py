"""The loader of training on preferences: endless batches, from all prompts or rows in memory."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tigerjax.config.files import RENAMED
from tigerjax.errors import ConfigError


class WidthGroup(Protocol):
    """Prompts or rows of one width."""

    @property
    def size(self) -> int:
        """How many there are."""

    def taken(self, picks: np.ndarray, rows: int) -> Any:
        """The batch of the rows `picks`, with padding up to `rows`."""

    def content(self) -> Iterable[np.ndarray]:
        """The arrays that say which rows these are."""


class PairLoader:
    """A loader for tigerjax.train.loop: endless batches of `batch_rows` rows.

    The rows come in groups, of which each has its own width, so that a batch is of one group. An epoch is
    `steps_per_epoch` batches with every row once, in its own seeded order. A group's last batch is padded.
    """

    def __init__(
        self,
        groups: Sequence[WidthGroup],
        *,
        batch_rows: int,
        seed: int,
        tokenizer_sha256: str,
        mine: Sequence[int] | None = None,
    ):
        """`mine` are the rows of each batch that this process loads (see mesh.host_rows); None is all."""
        self.groups = list(groups)
        self.batch_rows, self.seed = batch_rows, seed
        self.mine = list(range(batch_rows) if mine is None else mine)
        self.tokenizer_sha256 = tokenizer_sha256
        self._starts = [(group, start) for group, g in enumerate(self.groups) for start in range(0, g.size, batch_rows)]
        self.steps_per_epoch = len(self._starts)
        digest = hashlib.sha256()
        for array in (array for group in self.groups for array in group.content()):
            digest.update(np.ascontiguousarray(array).data)
        self._sha256, self._taken = digest.hexdigest(), 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        epoch, at = divmod(self._taken, self.steps_per_epoch)
        rng = np.random.Generator(np.random.Philox([self.seed, epoch]))
        orders = [rng.permutation(group.size) for group in self.groups]
        turn = rng.permutation(self.steps_per_epoch)[at] if len(self.groups) > 1 else at
        group, start = self._starts[turn]
        order, places = orders[group], start + np.array(self.mine, int)
        self._taken += 1
        return self.groups[group].taken(order[places[places < len(order)]], len(places))

    def state(self) -> dict[str, Any]:
        """The position, with what it depends on: `restore` compares these."""
        return {"taken": self._taken, "seed": self.seed, "batch_rows": self.batch_rows, "rows_sha256": self._sha256}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the position of `state`; ConfigError when its rows, seed or batch size are others."""
        for name, value in (self.state() | {"taken": state["taken"]}).items():
            if state[name] != value:
                raise ConfigError(
                    f"cannot resume exactly: preference {RENAMED.get(name, name)} was {state[name]} and is {value} now;"
                    " give the old preferences, or another --out"
                )
        self._taken = state["taken"]
