"""Rows: literal chunks, literal packs, literal batches."""

import tracemalloc

import numpy as np
import pytest

from tigerjax.data.rows import chunk, make_batch, make_row, pack, row_weights
from tigerjax.errors import DataError

PACKING_FILL = 0.95  # the design's figure for log-normal lengths


def rows_as_lists(rows):
    return [(row[0].tolist(), row[1].tolist(), row_weights(row).tolist()) for row in rows]


def test_chunk_makes_full_rows_and_carries_the_remainder():
    assert rows_as_lists(chunk([[5, 6], [7, 8, 9, 10]], 4, eos=2)) == [
        ([5, 6, 2, 7], [1, 1, 1, 2], [1.0] * 4),
        ([8, 9, 10, 2], [1, 1, 1, 1], [1.0] * 4),
    ]


def test_chunk_starts_segments_anew_in_each_row_and_leaves_the_last_remainder_out():
    documents = [[11, 12, 13, 14, 15, 16], [21], [], [31, 32, 33]]
    assert rows_as_lists(chunk(documents, 5, eos=2)) == [
        ([11, 12, 13, 14, 15], [1, 1, 1, 1, 1], [1.0] * 5),
        ([16, 2, 21, 2, 2], [1, 1, 2, 2, 3], [1.0] * 5),
    ]  # 31 32 33 2 fill no row


def test_chunk_of_documents_that_end_on_a_border_begins_the_next_row_with_segment_1():
    assert [row[1].tolist() for row in chunk([[1, 1, 1], [3], [4]], 4, eos=2)] == [[1, 1, 1, 1], [1, 1, 2, 2]]


def test_chunk_keeps_every_token_in_order():
    rng = np.random.default_rng(0)
    documents = [rng.integers(3, 99, rng.integers(0, 40)).tolist() for _ in range(200)]
    stream = [token for d in documents for token in [*d, 2]]
    rows = list(chunk(documents, 16, eos=2))
    assert np.concatenate([row[0] for row in rows]).tolist() == stream[: len(rows) * 16]
    assert len(rows) == len(stream) // 16
    owner = np.repeat(np.arange(len(documents)), [len(d) + 1 for d in documents])[: len(rows) * 16].reshape(-1, 16)
    for row, documents_T in zip(rows, owner, strict=True):
        assert row[1].tolist() == (np.unique(documents_T, return_inverse=True)[1] + 1).tolist()


def test_pack_puts_the_longest_first_and_fills_the_fullest_row():
    packed = pack([([5, 6, 2], [0, 1, 1]), ([7, 8, 9, 2], [0, 0, 0.5, 0.5]), ([4, 2], [0, 1])], 7, pad=99)
    assert rows_as_lists(packed.rows) == [
        ([7, 8, 9, 2, 5, 6, 2], [1, 1, 1, 1, 2, 2, 2], [0.0, 0.0, 0.5, 0.5, 0.0, 1.0, 1.0]),
        ([4, 2, 99, 99, 99, 99, 99], [1, 1, 0, 0, 0, 0, 0], [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
    ]
    assert packed.fill == pytest.approx(9 / 14)


def test_pack_counts_what_is_too_long_or_without_loss_and_splits_nothing():
    examples = [([1] * 9, [1] * 9), ([3, 4], [0, 1]), ([5, 6, 7], [0, 0, 0]), ([8, 9], [1, 0])]
    packed = pack(examples, 8)
    assert packed.overlong == [0]
    assert packed.weightless == [2, 3]  # the first token of a segment is never predicted
    assert [row[0].tolist() for row in packed.rows] == [[3, 4, 0, 0, 0, 0, 0, 0]]


def test_pack_refuses_weights_that_do_not_fit_the_tokens():
    with pytest.raises(DataError, match="example 0 has 2 tokens but 1 loss weights"):
        pack([([1, 2], [1])], 4)


def test_pack_fills_95_percent_on_log_normal_lengths():
    rng = np.random.default_rng(1)
    lengths = np.clip(rng.lognormal(5.0, 0.9, 2000).astype(int), 2, 1024)
    packed = pack([([7] * n, [1] * n) for n in lengths], 1024)
    assert packed.fill >= PACKING_FILL
    assert sum(np.count_nonzero(row[1]) for row in packed.rows) == lengths.sum()


def test_batch_shifts_once_and_never_predicts_across_a_border():
    row = make_row([5, 6, 2, 7, 8, 2, 0, 0], [1, 1, 1, 2, 2, 2, 0, 0], [0, 1, 1, 0, 0.5, 0.5, 1, 1])
    batch = make_batch([row, row])
    assert batch.tokens_BT[0].tolist() == [5, 6, 2, 7, 8, 2, 0, 0]
    assert batch.targets_BT[0].tolist() == [6, 2, 0, 8, 2, 0, 0, 0]
    assert batch.weights_BT[0].tolist() == [1, 1, 0, 0.5, 0.5, 0, 0, 0]
    assert batch.positions_BT[0].tolist() == [0, 1, 2, 0, 1, 2, 0, 0]
    assert batch.segment_ids_BT[1].tolist() == [1, 1, 1, 2, 2, 2, 0, 0]
    assert [a.dtype.name for a in batch] == ["int32", "int32", "float32", "int32", "int32"]


def test_packing_holds_less_than_20_bytes_a_token():
    """Python's lists of ids and weights took 90. Arrays take 8, and more for a moment while they grow."""
    lengths = [37 + i % 300 for i in range(3000)]
    tracemalloc.start()
    packed = pack((([300 + k for k in range(n)], [0.0] + [0.3 + k for k in range(n - 1)]) for n in lengths), 1024)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not packed.overlong and peak < 20 * sum(lengths)
