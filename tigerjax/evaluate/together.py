"""Log-likelihoods of sequences that begin alike, each token of them computed once (see `branches` for how they lie).

There are few shapes: stems have a few padded lengths, rows behind them a few widths, rows of other trees one width a
call, and a batch of either has one number of rows and of targets a call.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax import mesh as mesh_axes
from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import DataError
from tigerjax.evaluate import branches
from tigerjax.evaluate.branches import Node, Plan, Stem, Tokens, Tree
from tigerjax.mesh import in_mesh
from tigerjax.model import families
from tigerjax.model.layers import head, logits
from tigerjax.model.trees import Branches, Kept

ROW = 128
"""A batch has as many tokens as `rows` rows of this length."""
TARGETS = 16
"""The number of targets of a row is a multiple of this."""
CACHED = 128
"""Targets at one time on a CPU: their logits stay in a core's cache while they are summed."""
MULTIPLE = 32
"""The length of a row of trees is a multiple of this."""


class Score(NamedTuple):
    """Of the scored tokens of one sequence, in nats."""

    logprob: float
    greedy: bool
    """Whether each of them is the argmax."""


class Row(NamedTuple):
    """Trees that lie in one row, behind the stem of this number. Attention reads each by itself."""

    stem: int
    trees: list[Tree]


class Lot(NamedTuple):
    """Rows that are read in batches of one shape."""

    width: int
    shelves: list[tuple[int, int]]
    """(number, width): so many trees of each row are padded to this width where attention reads them."""
    rows: list[Row]


class Group(NamedTuple):
    """Stems of one padded length that are kept at the same time, and the rows of trees behind them."""

    stems: list[Stem]
    length: int
    """0 where nothing comes before the trees."""
    lots: list[Lot]


class Size(NamedTuple):
    """What a lot's batches have in common with those of other groups."""

    rows: int
    targets: int


class Placed(NamedTuple):
    """Where the scores of a node's tokens are in a batch: in `row`, from `at` on."""

    node: Node
    row: int
    at: int
    length: int


class Together:
    """A model that reads trees of tokens; `traces` counts the shapes that were compiled."""

    def __init__(self, model: Loaded, *, rows: int):
        """`rows` times ROW are the tokens of a batch. `model` is as `LogLikelihoods` holds it."""
        self.config, self.compute, self.mesh, self.rows = model.config, model.compute, model.mesh, rows
        self.ways = mesh_axes.row_ways(model.mesh)
        self.weights, self.traces = model.weights, 0
        self._stems: Callable[..., Any] = jax.jit(self._run_stems, static_argnums=5)
        self._trees: Callable[..., Any] = jax.jit(self._run_trees, static_argnums=5)
        if (mesh := self.mesh) is not None:
            whole = mesh_axes.sharding(mesh)
            kept = mesh_axes.sharding(mesh, None, None, None, "act_kv_heads", None)  # every device reads all rows
            stems = jax.jit(self._run_stems, static_argnums=5, out_shardings=(whole, whole, kept))
            trees = jax.jit(self._run_trees, static_argnums=5, out_shardings=whole)
            self._stems, self._trees = in_mesh(mesh, stems), in_mesh(mesh, trees)

    def score(self, sequences: Sequence[Tokens], plan: Plan) -> Iterator[tuple[int, Score]]:
        """(index, score) of the sequences that `plan` has not left alone, as they are finished."""
        groups = list(self._groups(plan))
        sizes: dict[tuple[int, int], Size] = {}
        for group in groups:
            for lot in group.lots:
                size = sizes.get((group.length, lot.width), Size(0, 0))
                targets = max(sum(map(_targets, row.trees)) for row in lot.rows)
                at_once = self._at_once(len(lot.rows), lot.width)
                sizes[group.length, lot.width] = Size(max(at_once, size.rows), max(targets, size.targets))
        for group in groups:
            kept = self._keep(group) if group.stems else None
            waiting = [(n, stem.node) for stem in group.stems for n in stem.node.members]
            for lot in group.lots:
                size = sizes[group.length, lot.width]
                for at in range(0, len(lot.rows), size.rows):
                    batch = lot._replace(rows=lot.rows[at : at + size.rows])
                    self._read(group, kept, batch, size)
                    waiting += [one for row in batch.rows for tree in row.trees for one in tree.members]
                    yield from _finished(sequences, waiting)
            yield from _finished(sequences, waiting)
            assert not waiting, "a token of the plan is in no row"

    def _groups(self, plan: Plan) -> Iterator[Group]:
        if plan.joined:
            yield Group([], 0, [self._dealt(plan.joined)])
        lengths: dict[int, list[Stem]] = {}
        for stem in plan.stems:
            lengths.setdefault(branches.padded(stem.length), []).append(stem)
        for length, stems in sorted(lengths.items()):
            many = self._at_once(len(stems), length)
            trees = [tree for stem in stems for tree in stem.trees]
            widths = branches.widths(trees) if trees else []
            for at in range(0, len(stems), many):
                group = stems[at : at + many]
                yield Group(group, length, _by_width(group, widths))

    def _dealt(self, trees: list[Tree]) -> Lot:
        """The trees in rows of about the same length, as many as take the least time."""
        many = -(-sum(len(tree.ids) for tree in trees) // (self.rows * ROW))
        lots = [_in_rows(trees, self.ways * count) for count in range(many - many // 4, many + many // 4 + 1)]
        return min(lots, key=lambda lot: len(lot.rows) * (lot.width + branches.attention(lot.shelves)))

    def _at_once(self, count: int, length: int) -> int:
        """Rows of a batch when there are `count` of this length: a multiple of the devices that share rows, and such
        that the last batch is nearly full."""
        most = max(1, self.rows * ROW // length // self.ways)
        shares = -(-count // self.ways)
        return self.ways * -(-shares // -(-shares // most))

    def _keep(self, group: Group) -> Kept:
        """Keys and values of the stems, whose tokens are scored on the way where a sequence wants them."""
        G = self._at_once(len(group.stems), group.length)
        tokens_GT, lengths_G = np.zeros((G, group.length), np.int32), np.ones(G, np.int32)
        for g, stem in enumerate(group.stems):
            tokens_GT[g, : stem.length], lengths_G[g] = stem.node.ids[: stem.length], stem.length
            stem.node.scored = stem.node.targets.start
        aims = [[branches.Target(s.node, s.node.targets.start, [j - 1 for j in s.node.targets])] for s in group.stems]
        at_GQ, ids_GQ, placed = _aims(aims, G, max(map(_count, aims)))
        chunk = self._chunk(at_GQ.shape[1], G)
        args = (self._put(a) for a in (tokens_GT, lengths_G, at_GQ, ids_GQ))
        logprobs, greedy, kept = self._stems(self.weights, *args, chunk)
        _note(placed, logprobs, greedy)
        return kept

    def _read(self, group: Group, kept: Kept | None, lot: Lot, size: Size) -> None:
        """Computes a batch of rows, and notes the scores in the nodes of their trees."""
        R, T = size.rows, lot.width
        tokens_BT, positions_BT, back_BT = (np.zeros((R, T), np.int32) for _ in range(3))
        stem_B, before_B = np.zeros(R, np.int32), np.zeros(R, np.int32)
        starts = [np.zeros((R, number), np.int32) for number, _ in lot.shelves]
        # A place that no tree fills is seen by itself alone.
        ends = [np.tile(np.arange(1, width + 1, dtype=np.int32), (R, number, 1)) for number, width in lot.shelves]
        places = [(shelf, j) for shelf, (number, _) in enumerate(lot.shelves) for j in range(number)]
        firsts = np.cumsum([0, *(width for number, width in lot.shelves for _ in range(number))])
        aims: list[list[branches.Target]] = []
        for b, row in enumerate(lot.rows):
            stem_B[b], before_B[b] = row.stem, group.stems[row.stem].length if group.stems else 0
            aims.append([])
            at = 0
            for (shelf, j), first, tree in zip(places, firsts, row.trees, strict=False):
                length = len(tree.ids)
                here = slice(at, at + length)
                tokens_BT[b, here], positions_BT[b, here] = tree.ids, tree.positions
                back_BT[b, here] = np.arange(first, first + length)
                starts[shelf][b, j], ends[shelf][b, j, :length] = at, tree.ends
                aims[-1] += [target._replace(slots=[at + s for s in target.slots]) for target in tree.targets]
                at += length
            for shelf, j in places[len(row.trees) :]:
                starts[shelf][b, j] = at
        at_BQ, ids_BQ, placed = _aims(aims, R, size.targets)
        arrays = (tokens_BT, positions_BT, stem_B, before_B, tuple(starts), tuple(ends), back_BT)
        lay = Branches(*jax.tree.map(self._put, arrays))
        chunk = self._chunk(at_BQ.shape[1], R)
        _note(placed, *self._trees(self.weights, kept, lay, self._put(at_BQ), self._put(ids_BQ), chunk))

    def _chunk(self, targets: int, rows: int) -> int:
        """Targets of a row whose logits exist at the same time."""
        chunk = max(1, min(targets, at_once(self.compute) // rows))
        while targets % chunk:
            chunk -= 1
        return chunk

    def _put(self, array: np.ndarray) -> Any:
        return array if self.mesh is None else mesh_axes.put(array, self.mesh, "batch")

    def _run_stems(
        self,
        weights: Any,
        tokens_BT: jax.Array,
        lengths_B: jax.Array,
        at_BQ: jax.Array,
        ids_BQ: jax.Array,
        chunk: int,
    ) -> tuple[jax.Array, jax.Array, Kept]:
        self.traces += 1
        segments_BT = (jnp.arange(tokens_BT.shape[1]) < lengths_B[:, None]).astype(jnp.int32)
        x_BTD, kept = families.of(self.config).keep(weights, self.config, self.compute, tokens_BT, segments_BT)
        return *self._aimed(weights, x_BTD, at_BQ, ids_BQ, chunk), kept

    def _run_trees(
        self, weights: Any, kept: Kept | None, rows: Branches, at_BQ: jax.Array, ids_BQ: jax.Array, chunk: int
    ) -> tuple[jax.Array, jax.Array]:
        self.traces += 1
        x_BTD = families.of(self.config).branch(weights, self.config, self.compute, rows, kept)
        return self._aimed(weights, x_BTD, at_BQ, ids_BQ, chunk)

    def _aimed(
        self, weights: Any, x_BTD: jax.Array, at_BQ: jax.Array, ids_BQ: jax.Array, chunk: int
    ) -> tuple[jax.Array, jax.Array]:
        """(log-probability, is it the argmax) of token ids_BQ after slot at_BQ."""
        B, Q = at_BQ.shape
        if Q == 0:
            return jnp.zeros((B, 0)), jnp.ones((B, 0), bool)
        x_BQD = jnp.take_along_axis(x_BTD, at_BQ[..., None], axis=1)

        def one(part: Any) -> tuple[jax.Array, jax.Array]:
            return of_targets(part[0], head(weights, self.config), part[1], self.config)

        found = jax.lax.map(one, (in_chunks(x_BQD, chunk), in_chunks(ids_BQ, chunk)))
        logprob_BQ, right_BQ = (jnp.moveaxis(a, 0, 1).reshape(B, Q) for a in found)
        return logprob_BQ, right_BQ


def in_chunks(array_BT: jax.Array, chunk: int) -> jax.Array:
    """Chunks of positions first: (T // chunk, B, chunk, …)."""
    B, T = array_BT.shape[:2]
    return jnp.moveaxis(array_BT.reshape(B, T // chunk, chunk, *array_BT.shape[2:]), 1, 0)


def at_once(compute: ComputeConfig) -> int:
    """How many positions have logits at one time, all rows together."""
    on_cpu = jax.default_backend() == "cpu"
    return min(compute.loss_chunk_tokens, CACHED) if on_cpu else compute.loss_chunk_tokens


def of_targets(
    x_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array, config: ModelConfig
) -> tuple[jax.Array, jax.Array]:
    """(log-probability of each target, whether it is the argmax). The first of equal logits is the argmax."""
    logits_BTV = logits(x_BTD, head_DV, config)
    at_V, targets_BT1 = jnp.arange(logits_BTV.shape[-1]), targets_BT[..., None]
    # Comparisons, not a gather and an argmax: V may be split over devices, and XLA:CPU vectorises no argmax.
    target_BT1 = jnp.sum(jnp.where(at_V == targets_BT1, logits_BTV, 0.0), axis=-1, keepdims=True)
    most_BT1 = jnp.max(logits_BTV, axis=-1, keepdims=True)
    total_BT = jnp.sum(jnp.exp(logits_BTV - most_BT1), axis=-1)
    equal_before_BT = jnp.any((logits_BTV == target_BT1) & (at_V < targets_BT1), axis=-1)
    greedy_BT = (target_BT1 >= most_BT1)[..., 0] & ~equal_before_BT
    return (target_BT1 - most_BT1)[..., 0] - jnp.log(total_BT), greedy_BT


def _finished(sequences: Sequence[Tokens], waiting: list[tuple[int, Node]]) -> Iterator[tuple[int, Score]]:
    """The sequences of `waiting` whose every token is computed; the others stay in it. A part may be in another row."""
    still = []
    for n, node in waiting:
        if (total := node.total(sequences[n].first)) is None:
            still.append((n, node))
        else:
            yield n, Score(*total)
    waiting[:] = still


def _in_rows(trees: list[Tree], many: int) -> Lot:
    rows = [Row(0, row) for row in branches.deal(trees, many)]
    longest: list[int] = []  # tree of each place
    for row in rows:
        lengths = [len(tree.ids) for tree in row.trees]
        longest = [max(pair) for pair in itertools.zip_longest(longest, lengths, fillvalue=0)]
    width = max(sum(len(tree.ids) for tree in row.trees) for row in rows)
    return Lot(-(-width // MULTIPLE) * MULTIPLE, branches.shelves(longest), rows)


def _by_width(stems: list[Stem], widths: list[int]) -> list[Lot]:
    """The trees of each stem in rows, by the rows' width. Attention reads a row as one tree: the keys before it are
    then read once for all of them."""
    out = []
    for less, width in zip([0, *widths], widths, strict=False):
        rows = []
        for g, stem in enumerate(stems):
            fit = [tree for tree in stem.trees if less < len(tree.ids) <= width]
            rows += [Row(g, [branches.side_by_side(row)]) for row in branches.rows(fit, width)]
        if rows:
            out.append(Lot(width, [(1, width)], rows))
    return out


def _targets(tree: Tree) -> int:
    return _count(tree.targets)


def _count(targets: Sequence[branches.Target]) -> int:
    return sum(len(target.slots) for target in targets)


def _aims(rows: list[list[branches.Target]], R: int, targets: int) -> tuple[np.ndarray, np.ndarray, list[Placed]]:
    """(slots, token ids, where each node's scores will be) of the targets of each row."""
    Q = -(-targets // TARGETS) * TARGETS
    at_BQ, ids_BQ = np.zeros((R, Q), np.int32), np.zeros((R, Q), np.int32)
    placed = []
    for b, row in enumerate(rows):
        at = 0
        for node, first, slots in row:
            placed.append(Placed(node, b, at, len(slots)))
            at_BQ[b, at : at + len(slots)] = slots
            ids_BQ[b, at : at + len(slots)] = node.ids[first : first + len(slots)]
            at += len(slots)
    return at_BQ, ids_BQ, placed


def _note(placed: list[Placed], logprobs: Any, greedy: Any) -> None:
    logprob_BQ, greedy_BQ = jax.device_get((logprobs, greedy))
    for node, row, at, length in placed:
        node.logprobs, node.greedy = logprob_BQ[row, at : at + length], greedy_BQ[row, at : at + length]
        if not np.isfinite(node.logprobs).all():
            raise DataError("a log-likelihood is not finite: the model gives NaN, or an id is past its vocabulary")
