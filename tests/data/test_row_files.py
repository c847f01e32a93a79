"""Files of cached rows: what goes in comes out, in few bytes, by ranges; many sources take little memory."""

import subprocess
import sys

import numpy as np
import pytest

from tigerjax.data import row_files
from tigerjax.data.row_files import RowFiles
from tigerjax.data.rows import make_row
from tigerjax.errors import DataError
from tigerjax.files import paths

L = 64


def rows(count: int, vocab: int = 60_515, seed: int = 0) -> list[np.ndarray]:
    """Rows of several documents each, with weights of 0, 1 and 1.5, and padding at the end of some."""
    rng = np.random.default_rng(seed)
    made = []
    for n in range(count):
        segments = np.sort(rng.integers(1, 5, L))
        segments[L - n % 7 :] = 0
        weights = np.where(segments % 2, 1.0, 1.5) * (segments > 0)
        made.append(make_row(rng.integers(0, vocab, L), segments, weights))
    return made


@pytest.mark.parametrize("vocab", [60_515, 152_064])
def test_rows_come_back_as_they_went_in_from_several_files(tmp_path, monkeypatch, vocab):
    monkeypatch.setattr(row_files, "FILE_BYTES", 1000)
    given = rows(23, vocab)
    figures = row_files.write(tmp_path, given)
    assert figures["rows"] == 23 and len(figures["files"]) > 3
    assert [file["bytes"] for file in figures["files"]] == [p.stat().st_size for p in sorted(tmp_path.iterdir())]
    order = np.random.default_rng(1).permutation(23)
    np.testing.assert_array_equal(RowFiles(tmp_path, figures, L).read(order), [given[n] for n in order])
    assert RowFiles(tmp_path, figures, L).read([]).shape == (0, 3, L)


def test_any_int32_row_comes_back_bit_for_bit(tmp_path):
    odd = np.random.default_rng(0).integers(-(2**31), 2**31, (5, 3, L), dtype=np.int64).astype(np.int32)
    figures = row_files.write(tmp_path, list(odd))
    np.testing.assert_array_equal(RowFiles(tmp_path, figures, L).read(range(5)), odd)


@pytest.mark.parametrize(("vocab", "most"), [(60_515, 2.1), (152_064, 4.1)])
def test_a_token_of_a_long_row_takes_little_more_than_its_id(tmp_path, vocab, most):
    length, rng = 4096, np.random.default_rng(0)
    segments = np.sort(rng.integers(1, 9, length))
    given = [make_row(rng.integers(0, vocab, length), segments, np.ones(length)) for _ in range(8)]
    figures = row_files.write(tmp_path, given)
    assert sum(file["bytes"] for file in figures["files"]) < most * 8 * length


def test_of_rows_in_a_bucket_only_those_that_are_read_are_copied(cloud, tmp_path, monkeypatch):
    given = rows(200)
    (tmp_path / "rows").mkdir()
    figures = row_files.write(tmp_path / "rows", given)
    far = paths.of("gs://bucket/rows")
    paths.upload(tmp_path / "rows", far)
    asked: list[int] = []
    parts = paths.parts

    def counted(spans):
        asked.extend(stop - start for _, start, stop in spans)
        return parts(spans)

    monkeypatch.setattr(paths, "parts", counted)
    files = RowFiles(far, figures, L)
    for numbers in ([3, 199, 0], [7]):
        np.testing.assert_array_equal(files.read(numbers), [given[n] for n in numbers])
    assert len(asked) == 5, "one index and four rows"
    size = figures["files"][0]["bytes"]
    assert sum(asked) < 8 * 201 + 12 + 5 * size / 200
    del cloud.objects["bucket/rows/rows-00000.rows"]
    with pytest.raises(DataError, match=r"gs://bucket/rows: the rows cannot be read \(.*; remove the folder"):
        files.read([1])


CHILD = """
import resource, sys
import numpy as np
from pathlib import Path
from tigerjax.data.loader import Loader
folder, count = Path(sys.argv[1]), int(sys.argv[2])
names = {f"s{n:03}": folder for n in range(count)}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
loader = Loader(names, dict.fromkeys(names, 1.0), 128, 64, 0)
for _ in range(20):
    next(loader)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)
"""


def test_a_hundred_sources_take_16_bytes_of_memory_for_each_row(tmp_path):
    from tigerjax.files import manifest

    count, sources = 20_000, 100
    one = rows(1)[0]
    with manifest.stage(tmp_path / "rows", name="cache", config={}, inputs=[]) as run:
        run.figures = row_files.write(run.tmp, (one for _ in range(count))) | {"seq_len": L}
    child = [sys.executable, "-c", CHILD, str(tmp_path / "rows"), str(sources)]
    grown_mb = float(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    assert grown_mb < 16 * count * sources / 1e6 + 15, "an index and the order of an epoch, 8 bytes a row each"
