"""Cached rows with a flipped bit, cut or emptied: one line that says what to remove, and never wrong tokens."""

import numpy as np
import pytest

from tigerjax.data import loader, row_files
from tigerjax.errors import DataError
from tigerjax.files import manifest

L, ROWS = 16, 5


@pytest.fixture
def cached(tmp_path):
    with manifest.stage(tmp_path / "rows", name="cache", config={}, inputs=[]) as run:
        rows = [np.full((3, L), n, np.int32) for n in range(ROWS)]
        run.figures = row_files.write(run.tmp, rows) | {"seq_len": L}
    return tmp_path / "rows"


def read(folder):
    source = loader.CachedSource("zh", folder, L)
    return [source.read([n])[0, 0, 0] for n in range(ROWS)]


def test_every_flipped_bit_of_cached_rows_is_found_when_the_folder_is_opened(cached):
    file = cached / row_files.name(0)
    good = file.read_bytes()
    assert read(cached) == list(range(ROWS))
    for at in range(0, len(good), len(good) // 50):
        file.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(DataError, match="rows holds other bytes than were written"):
            read(cached)
    file.write_bytes(good[: len(good) // 2])
    with pytest.raises(DataError, match=r"bytes, and .* were written by stage 'cache'; run that stage again"):
        read(cached)


def test_rows_too_many_to_hash_at_each_start_are_checked_as_they_are_read(cached, monkeypatch):
    monkeypatch.setattr(manifest, "CHEAP_BYTES", 0)
    file = cached / row_files.name(0)
    good = file.read_bytes()
    for at in range(len(good)):
        file.write_bytes(good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :])
        with pytest.raises(
            DataError, match=r"rows-00000\.rows: the rows are damaged \(.*; remove the folder"
        ) as raised:
            read(cached)
        assert "\n" not in str(raised.value)
