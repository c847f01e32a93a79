"""Checksums by several threads: the same for every number of threads, and another one for every flipped bit."""

import hashlib

import numpy as np
import pytest
import xxhash

from tigerjax.files import digests

SIZES = [0, 1, 99, 100, 101, 250, 400]  # of files, for pieces of 100 bytes


def taken(path, kind):
    told = []
    with digests.threads(path.parent) as pool:
        found = kind(path, path.stat().st_size, pool, told.append)()
    assert sum(told) == path.stat().st_size
    return found


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(digests, "PIECE_BYTES", 100)
    monkeypatch.setattr(digests, "READ_BYTES", 16)


@pytest.mark.parametrize("size", SIZES)
def test_both_ways_of_taking_a_checksum_agree_with_their_definitions(tmp_path, size):
    path, data = tmp_path / "a", np.random.default_rng(size).bytes(size)
    path.write_bytes(data)
    pieces = [xxhash.xxh3_128_digest(data[at : at + 100]) for at in range(0, size, 100)]
    wanted = hashlib.sha256(data).hexdigest(), xxhash.xxh3_128_hexdigest(b"".join(pieces))
    assert digests.both(path) == wanted
    assert (taken(path, digests.sha256), taken(path, digests.xxh3)) == wanted


def test_every_flipped_bit_and_every_other_order_of_pieces_is_another_checksum(tmp_path):
    path, data = tmp_path / "a", np.random.default_rng(0).bytes(250)
    path.write_bytes(data)
    found = {taken(path, digests.xxh3)}
    others = [data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :] for at in range(len(data))]
    for other in [*others, data[100:200] + data[:100] + data[200:], data[:200], data + b"\0"]:
        path.write_bytes(other)
        found.add(taken(path, digests.xxh3))
    assert len(found) == len(data) + 4


def test_a_file_that_is_gone_is_an_error_of_its_checksum(tmp_path):
    with digests.threads(tmp_path) as pool, pytest.raises(FileNotFoundError):
        digests.xxh3(tmp_path / "gone", 300, pool, lambda _: None)()
