"""Makes rows of exactly L tokens: documents are chunked, chat examples are packed, and rows become a `Batch`.

A row is int32 [3, L]: tokens, segment ids (1, 2, … within the row, 0 for padding), and the bits of a float32, the loss
weight of each token *as a target*. Targets are shifted by one position only once, in `make_batch`.
"""

import array
import bisect
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from tigerjax.errors import DataError


class Batch(NamedTuple):
    """What a model trains on. `targets_BT[b, t]` is the token after position t, `weights_BT` its loss weight.

    An example: tokens [[5 6 2 7 8 2]] in segments [[1 1 1 2 2 2]], all of them in the loss, give

           tokens_BT   [5 6 2 7 8 2]
          targets_BT   [6 2 0 8 2 0]
          weights_BT   [1 1 0 1 1 0]   0 at the last position of a segment: the next token is of another one
        positions_BT   [0 1 2 0 1 2]
      segment_ids_BT   [1 1 1 2 2 2]   0 would be padding
    """

    tokens_BT: np.ndarray
    targets_BT: np.ndarray
    weights_BT: np.ndarray
    positions_BT: np.ndarray
    segment_ids_BT: np.ndarray


def make_row(tokens: ArrayLike, segments: ArrayLike, weights: ArrayLike) -> np.ndarray:
    """The int32 [3, L] row of L tokens."""
    bits = np.asarray(weights, np.float32).view(np.int32)
    return np.stack([np.asarray(tokens, np.int32), np.asarray(segments, np.int32), bits])


def row_weights(row: np.ndarray) -> np.ndarray:
    """The float32 loss weights of a row [3, L] or of rows [B, 3, L]."""
    return np.ascontiguousarray(row[..., 2, :]).view(np.float32)


def make_batch(rows: Sequence[np.ndarray] | np.ndarray) -> Batch:
    """The batch of B rows [3, L]; `Batch` has a worked example."""
    rows_B3T = np.stack([np.asarray(row, np.int32) for row in rows])
    tokens_BT, segment_ids_BT = rows_B3T[:, 0], rows_B3T[:, 1]
    same_BT = np.zeros(tokens_BT.shape, bool)  # positions t and t + 1 are of one segment, which is not padding
    same_BT[:, :-1] = (segment_ids_BT[:, 1:] == segment_ids_BT[:, :-1]) & (segment_ids_BT[:, :-1] != 0)
    targets_BT, weights_BT = np.zeros_like(tokens_BT), np.zeros(tokens_BT.shape, np.float32)
    targets_BT[:, :-1] = tokens_BT[:, 1:]
    weights_BT[:, :-1] = row_weights(rows_B3T)[:, 1:]
    index_T = np.arange(tokens_BT.shape[1], dtype=np.int32)
    starts_BT = np.ones(tokens_BT.shape, bool)
    starts_BT[:, 1:] = segment_ids_BT[:, 1:] != segment_ids_BT[:, :-1]
    positions_BT = index_T - np.maximum.accumulate(np.where(starts_BT, index_T, 0), axis=1)
    return Batch(
        tokens_BT=np.ascontiguousarray(tokens_BT),
        targets_BT=np.where(same_BT, targets_BT, 0),
        weights_BT=np.where(same_BT, weights_BT, np.float32(0)),
        positions_BT=np.where(segment_ids_BT == 0, 0, positions_BT).astype(np.int32),
        segment_ids_BT=np.ascontiguousarray(segment_ids_BT),
    )


def chunk(documents: Iterable[Sequence[int]], length: int, eos: int, *, pad: int | None = None) -> Iterator[np.ndarray]:
    """Rows of exactly `length` tokens, cut from documents that are joined by eos; every token has loss weight 1.

    Tokens that do not fill a row begin the next one. Fewer than `length` are left after the last document. They give no
    row, or with `pad` one that is filled up with that id. A document that is cut at the end of a row goes on as
    segment 1 of the next.

        documents [[5 6] [7 8 9 10]], length 4, eos 2   ->   tokens [5 6 2 7]   [8 9 10 2]
                                                           segments [1 1 1 2]   [1 1  1 1]
    """
    tokens: list[int] = []
    segments: list[int] = []
    ones = np.ones(length, np.float32)
    current = 1
    for document in documents:
        tokens.extend(document)
        tokens.append(eos)
        segments.extend([current] * (len(document) + 1))
        current += 1
        if len(tokens) < length:
            continue
        for start in range(0, len(tokens) - length + 1, length):
            ids = np.asarray(segments[start : start + length], np.int32)
            yield make_row(tokens[start : start + length], ids - (ids[0] - 1), ones)
        left = len(tokens) % length
        tokens = tokens[len(tokens) - left :]
        first = segments[-left] if left else current
        segments = [s - first + 1 for s in segments[len(segments) - left :]]
        current = segments[-1] + 1 if left else 1
    if pad is not None and tokens:
        blank = length - len(tokens)
        losses = np.pad(ones[: len(tokens)], (0, blank))
        yield make_row([*tokens, *[pad] * blank], [*segments, *[0] * blank], losses)


class PackedRows:
    """The rows int32 [3, L] of packed examples. Each is made when it is read: together they take 12 bytes per token."""

    def __init__(self, examples: "_Examples", groups: Sequence[Sequence[int]], length: int, pad: int):
        self._examples, self._groups, self._length, self._pad = examples, groups, length, pad

    def __len__(self) -> int:
        return len(self._groups)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, number: int) -> np.ndarray:
        tokens = np.full(self._length, self._pad, np.int32)
        segments, losses = np.zeros(self._length, np.int32), np.zeros(self._length, np.float32)
        start = 0
        for segment, i in enumerate(self._groups[number], 1):
            ids, weights = self._examples.of(i)
            end = start + len(ids)
            tokens[start:end], segments[start:end], losses[start:end] = ids, segment, weights
            start = end
        return make_row(tokens, segments, losses)


class Packed(NamedTuple):
    """Rows of packed examples, and the examples that are in no row."""

    rows: PackedRows
    tokens: int
    """Of the rows, without padding."""
    overlong: list[int]
    """Indices of examples longer than a row. They are dropped, never cut."""
    weightless: list[int]
    """Indices of examples without a token that has a loss weight and another token before it."""

    @property
    def fill(self) -> float:
        """Share of the rows' positions that hold a token."""
        return self.tokens / (len(self.rows) * len(self.rows[0][0])) if len(self.rows) else 0.0


class _Examples:
    """Examples end to end: 8 bytes per token, where Python's lists would take 60."""

    def __init__(self) -> None:
        self.ids, self.weights, self.ends = array.array("i"), array.array("f"), array.array("q", [0])

    def add(self, ids: Sequence[int], weights: Sequence[float]) -> None:
        self.ids.extend(ids)
        self.weights.extend(weights)
        self.ends.append(len(self.ids))

    def of(self, number: int) -> "tuple[array.array[int], array.array[float]]":  # Python 3.11 cannot evaluate it
        at = slice(self.ends[number], self.ends[number + 1])
        return self.ids[at], self.weights[at]


def pack(examples: Iterable[tuple[Sequence[int], Sequence[float]]], length: int, *, pad: int = 0) -> Packed:
    """Packs whole examples (ids, loss weights) into rows, by best-fit decreasing.

    The longest example comes first, and each goes into the fullest row that has room for it.

    [([5 6 2], [0 1 1]), ([7 8 9 2], [0 0 1 1]), ([3], [1])], length 7   ->
      tokens [7 8 9 2 5 6 2]   the third has no second token to predict: weightless, index 2
    segments [1 1 1 1 2 2 2]
     weights [0 0 1 1 0 1 1]

    Raises DataError for an example with another number of weights than of tokens.
    """
    held = _Examples()
    overlong: list[int] = []
    weightless: list[int] = []
    for i, (ids, weights) in enumerate(examples):
        if len(ids) != len(weights):
            raise DataError(f"example {i} has {len(ids)} tokens but {len(weights)} loss weights; give one per token")
        # The first token of an example is never predicted, so only weights after it count.
        if not any(weights[1:]):
            weightless.append(i)
        elif len(ids) > length:
            overlong.append(i)
        else:
            held.add(ids, weights)
    groups = best_fit(np.diff(held.ends).tolist(), length)
    return Packed(PackedRows(held, groups, length, pad), len(held.ids), overlong, weightless)


def best_fit(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Groups of indices whose sizes sum to at most `length`, by best-fit decreasing; no size is above `length`."""
    members: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # (space left, row), sorted: the first that fits is the fullest
    for i in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        need = sizes[i]
        at = bisect.bisect_left(open_rows, (need, -1))
        if at == len(open_rows):
            members.append([])
            space, row = length, len(members) - 1
        else:
            space, row = open_rows.pop(at)
        members[row].append(i)
        if space > need:
            bisect.insort(open_rows, (space - need, row))
    return members
