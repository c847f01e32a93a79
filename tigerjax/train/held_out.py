"""Loss and next-token accuracy on held-out sets, with the run's own weights on its own mesh.

The rows of all sets follow each other through one compiled forward pass, in batches of a micro-batch's size. So beside
the state of training the devices hold no more than in a step. The devices give the sums of each row, and the host adds
them in float64 in the order of the rows. So the figures depend neither on the number of processes nor on the batch.
"""

import dataclasses
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import RunConfig
from tigerjax.data.rows import make_batch
from tigerjax.mesh import host_rows, in_mesh, put_rows, sharding
from tigerjax.processes import hosts
from tigerjax.records.notes import NOT_GIVEN
from tigerjax.train.objective import Objective

TABLES = {"by_lang": "lang", "by_source": "source", "by_task": "task"}
"""Of the figures of a set, each with its word in the names of single figures, such as `wiki/lang/zh/loss_nats`."""
MEASURED = ("loss_nats", "accuracy")
AHEAD = 2
"""So many batches are started before the sums of the first are read, so that the devices do not wait for the host. With
several hosts it may not be more: see `hosts.Stop`."""

Figures = dict[str, dict[str, Any]]
"""{set: {loss_nats, accuracy, tokens, by_lang, by_source, by_task}}. Each by_* is {name: {loss_nats, accuracy,
tokens}}, and is left out where no record says it. A loss that is not finite is None. Of questions, accuracy is the
share of right answers, and `right` and `n` stand in the place of loss and tokens."""


class HeldOutSet(Protocol):
    """The rows of one held-out set, as `tigerjax.data.held_out` makes them."""

    name: str
    rows: int

    @property
    def groups(self) -> Sequence[tuple[Sequence[str], int]]:
        """((lang, source, task), number of rows), in the order of the rows."""

    @property
    def sha256(self) -> str:
        """Of the rows."""

    def read(self, indices: Sequence[int]) -> np.ndarray: ...


class QuestionSet(Protocol):
    """What puts questions to the model, as `tigerjax.evaluate.asked` does."""

    names: list[str]
    """Of the figures that it gives, as `flat` names them."""
    sha256: dict[str, str]
    """{name of questions: their hash}"""

    def __call__(self, weights: Any, mesh: Mesh, stop: Callable[[], bool]) -> Figures | None: ...


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """What a run is validated on."""

    sets: Sequence[HeldOutSet] = ()
    ask: QuestionSet | None = None

    def hashes(self) -> dict[str, str]:
        """{name: the hash of its rows or questions}"""
        return {one.name: one.sha256 for one in self.sets} | (self.ask.sha256 if self.ask is not None else {})

    def names(self) -> list[str]:
        """Of the figures, as `flat` names them."""
        rows = sum(count for one in self.sets for _, count in one.groups)
        of_sets = list(flat(figures(self.sets, np.ones((rows, 3)))))
        return of_sets + (self.ask.names if self.ask is not None else [])


NOTHING = HeldOut()


class Validator:
    """Computes the figures of everything that is held out."""

    def __init__(self, config: RunConfig, held_out: HeldOut, objective: Objective, mesh: Mesh):
        """`objective` has a `by_row`."""
        assert objective.by_row is not None
        self._plain = objective.plain
        sets, self._ask = held_out.sets, held_out.ask
        self.hashes, self.names = held_out.hashes(), held_out.names()
        self._sets, self._mesh, self._seq_len = list(sets), mesh, config.data.seq_len
        self._batch_rows = config.global_batch_size // config.optim.gradient_accumulation_steps
        self._mine = host_rows(mesh, self._batch_rows)
        self._places = [(s, row) for s, one in enumerate(self._sets) for row in range(one.rows)]
        self.batches = -(-len(self._places) // self._batch_rows)
        # Without a sharding of rows, so that every process gets the sums of all of them.
        self._sums = in_mesh(mesh, jax.jit(objective.by_row, out_shardings=sharding(mesh)))

    def run(self, weights: Any, stop: Callable[[], bool]) -> Figures | None:
        """The figures with these weights. `stop` is asked before each batch; None where it says so."""
        found = self._losses(weights, stop)
        if found is None or self._ask is None:
            return found
        answered = self._ask(self._plain(weights), self._mesh, stop)
        return None if answered is None else found | answered

    def _losses(self, weights: Any, stop: Callable[[], bool]) -> Figures | None:
        started: deque[Any] = deque()
        sums: list[np.ndarray] = [np.zeros((0, 3))]

        def read() -> None:
            sums.append(np.stack(jax.device_get(tuple(started.popleft())), axis=1).astype(np.float64))

        for number in range(self.batches):
            if stop():
                return None
            hosts.at(f"validating, batch {number + 1} of {self.batches}")
            started.append(self._sums(weights, self._batch(number)))
            if len(started) == AHEAD:
                read()
        while started:
            read()
        return figures(self._sets, np.concatenate(sums))

    def _batch(self, number: int) -> Any:
        """Batch `number`, on the devices. Behind the last row there are rows of padding, which have no loss."""
        rows_B3T = np.zeros((len(self._mine), 3, self._seq_len), np.int32)
        wanted = [number * self._batch_rows + row for row in self._mine]
        for s, one in enumerate(self._sets):
            at = [place for place, n in enumerate(wanted) if n < len(self._places) and self._places[n][0] == s]
            if at:
                rows_B3T[at] = one.read([self._places[wanted[place]][1] for place in at])
        return jax.tree.map(lambda rows: put_rows(rows, self._mesh, self._mine, self._batch_rows), make_batch(rows_B3T))


def figures(sets: Sequence[HeldOutSet], sums_R3: np.ndarray) -> Figures:
    """The figures of the sets; `sums_R3` float64 are the `RowLoss` sums of all their rows, in order."""
    found: Figures = {}
    first = 0
    for one in sets:
        total = np.zeros(3)
        tables: dict[str, dict[str, np.ndarray]] = {table: defaultdict(lambda: np.zeros(3)) for table in TABLES}
        for group, count in one.groups:
            part = sums_R3[first : first + count].sum(axis=0)
            first += count
            total += part
            for by, name in zip(tables.values(), group, strict=True):
                by[name] += part
        named = {table: by for table, by in tables.items() if set(by) != {NOT_GIVEN}}
        found[one.name] = _figures(total) | {
            table: {name: _figures(sums) for name, sums in sorted(by.items())} for table, by in named.items()
        }
    return found


def _figures(sums: np.ndarray) -> dict[str, Any]:
    nll, tokens, right = sums.tolist()
    loss = nll / tokens if tokens and np.isfinite(nll) else None
    return {"loss_nats": loss, "accuracy": right / tokens if tokens else None, "tokens": int(tokens)}


def flat(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
    """{name of a single figure: its value}, such as `wiki/loss_nats` and `wiki/source/books/accuracy`."""
    return {
        f"{name}/{measured}": part[measured]
        for name, part in _parts(found)
        for measured in MEASURED
        if measured in part
    }


def lines(found: Mapping[str, Mapping[str, Any]], *, whole: bool) -> list[str]:
    """The figures as lines: of each set, and with `whole` also of its languages, sources and tasks."""
    out = []
    for name, part in _parts(found):
        if not whole and part is not found.get(name):
            continue
        if "loss_nats" not in part:
            out.append(f"{name:28} right {part['accuracy']:.1%}  questions {part['n']}")
            continue
        loss = "not finite" if part["loss_nats"] is None else f"{part['loss_nats']:.3f} nats"
        out.append(f"{name:28} loss {loss}  accuracy {part['accuracy'] or 0:.1%}  tokens {part['tokens']}")
    return out


def _parts(found: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, figures) of each set, and of each of its languages, sources and tasks."""
    for name, whole in found.items():
        yield name, whole
        for table, word in TABLES.items():
            for inner, part in whole.get(table, {}).items():
                yield f"{name}/{word}/{inner}", part
