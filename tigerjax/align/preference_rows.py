"""Preferences as packed rows: the answers of a prompt stand in one row, each with the prompt before it.

A row has room for several of the longest chats, so both answers of a pair always fit. The answers of short prompts fill
a row together, and the answers of a prompt that does not fit are cut into parts of which each does. A row is:

    tokens     x y_w      x y_l      x' y'_w    x' y'_l    padding
    segments   1 1 1      2 2 2      3 3 3      4 4 4      0
    weights    0 1 1      0 1 1      0 1 1      0 1 1      0
    pairs      (1, 2) of the first prompt, (3, 4) of the second
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from tigerjax.align import widths
from tigerjax.align.encoding import EncodedAnswer, check_end, encode_answer, encode_sampled
from tigerjax.align.reward_data import Comparison
from tigerjax.data.rows import best_fit, make_batch, make_row
from tigerjax.errors import DataError
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.train.preference_loss import PreferenceBatch


class PreferenceRows(NamedTuple):
    """All rows of a run; see `PreferenceBatch` for the parts of each. A group of `pair_loader.PairLoader`."""

    rows_B3T: np.ndarray
    winner_BP: np.ndarray
    loser_BP: np.ndarray
    weight_BP: np.ndarray
    unrelated_BC: np.ndarray
    reference_BC: np.ndarray | None = None

    @property
    def size(self) -> int:
        return len(self.rows_B3T)

    def taken(self, picks: np.ndarray, rows: int) -> PreferenceBatch:
        """The rows `picks`, and empty ones up to `rows`."""

        def padded(array: np.ndarray) -> np.ndarray:
            out = np.zeros((rows, *array.shape[1:]), array.dtype)
            out[: len(picks)] = array[picks]
            return out

        rows_B3T, *others = (None if array is None else padded(array) for array in self)
        assert rows_B3T is not None
        return PreferenceBatch(make_batch(rows_B3T), *others)

    def content(self) -> Iterator[np.ndarray]:
        """What the loader's state names these rows by. The reference's log-probabilities follow from them."""
        return (array for array in self[:-1] if array is not None)

    def figures(self) -> dict[str, Any]:
        """Rows, pairs, and the share of places that hold a token."""
        pairs = int(np.count_nonzero(self.weight_BP))
        return {"rows": self.size, "pairs_in_rows": pairs, "fill": float(np.mean(self.rows_B3T[:, 1] != 0))}


class _Unit(NamedTuple):
    """Answers that must stand in one row."""

    answers: list[EncodedAnswer]
    pairs: list[tuple[int, int, float]]
    unrelated: int
    """How many of the answers, the last ones, answer another prompt."""

    @property
    def length(self) -> int:
        return sum(len(one.ids) for one in self.answers)


def to_rows(
    comparisons: Sequence[Comparison], tok: Tokenizer, *, seq_len: int, chats: int, unrelated: bool
) -> PreferenceRows:
    """Rows of `chats` x `seq_len` tokens with all pairs. Each answer fits into `seq_len` tokens (see `overlong.fit`).

    `unrelated` adds to each part of a prompt the answer to another prompt, cut where it does not fit.

    Raises DataError for KTO with fewer than two prompts.
    """
    if unrelated and len(comparisons) < 2:
        raise DataError(
            f"{len(comparisons)} prompt with a pair; KTO compares with answers to other prompts, so give at least 2"
        )
    units: list[_Unit] = []
    for number, comparison in enumerate(comparisons):
        encoded = _encoded(comparison, tok, seq_len)
        strange = [_strange(comparisons, number, tok, seq_len)] if unrelated else []
        room = chats * seq_len - sum(len(one.ids) for one in strange)
        for part in widths.cut(comparison, [len(encoded[answer].ids) for answer in comparison.answers], room):
            pairs = [(pair.winner, pair.loser, pair.weight) for pair in part.pairs]
            units.append(_Unit([*(encoded[answer] for answer in part.answers), *strange], pairs, len(strange)))
    return _packed(units, chats * seq_len)


def _encoded(comparison: Comparison, tok: Tokenizer, seq_len: int) -> dict[tuple[str, str], EncodedAnswer]:
    """Each (text, finish) of a comparison, encoded."""
    where, out = f"prompt {comparison.prompt_id!r}", {}
    for text, finish in comparison.answers:
        one = encode_answer(tok, comparison.messages, text, finish, seq_len=seq_len, where=where)
        check_end(tok, one.ids, finish, where)
        out[text, finish] = one
    return out


def _strange(comparisons: Sequence[Comparison], number: int, tok: Tokenizer, seq_len: int) -> EncodedAnswer:
    """The prompt `number` with an answer to the next prompt. Better and worse answers take turns."""
    prompt, other = comparisons[number], comparisons[(number + 1) % len(comparisons)]
    pair = other.pairs[0]
    text, finish = other.answers[pair.winner if number % 2 else pair.loser]
    where = f"prompt {prompt.prompt_id!r}"
    return encode_sampled(tok, prompt.messages, text, finish, seq_len=seq_len, where=where)[0]


def _packed(units: Sequence[_Unit], length: int) -> PreferenceRows:
    groups = best_fit([unit.length for unit in units], length)
    B = len(groups)
    C = max(sum(len(units[i].answers) for i in group) for group in groups)
    P = max(sum(len(units[i].pairs) for i in group) for group in groups)
    winner_BP, loser_BP, weight_BP = np.zeros((B, P), np.int32), np.zeros((B, P), np.int32), np.zeros((B, P))
    rows_B3T, unrelated_BC = np.zeros((B, 3, length), np.int32), np.zeros((B, C), np.float32)
    for b, group in enumerate(groups):
        tokens, segments, losses = (np.zeros(length, kind) for kind in (np.int32, np.int32, np.float32))
        start = first = at = 0
        for unit in (units[i] for i in group):
            for place, one in enumerate(unit.answers):
                end = start + len(one.ids)
                tokens[start:end], segments[start:end] = one.ids, first + place + 1
                losses[start + len(one.prompt) : end] = 1.0
                unrelated_BC[b, first + place] = place >= len(unit.answers) - unit.unrelated
                start = end
            for winner, loser, weight in unit.pairs:
                winner_BP[b, at], loser_BP[b, at], weight_BP[b, at] = first + winner, first + loser, weight
                at += 1
            first += len(unit.answers)
        rows_B3T[b] = make_row(tokens, segments, losses)
    return PreferenceRows(rows_B3T, winner_BP, loser_BP, weight_BP.astype(np.float32), unrelated_BC)
