"""A file that was cut is refused, in every format, and never read as a shorter one."""

import zlib

import pyarrow as pa
import pytest
import zstandard
from file_formats import GIVEN, LINES, WRITTEN, save_array_record, save_dataset, save_tfds, save_tfrecord

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.records.tf import start
from tigerjax.text.dedup import dedup_files


def cut_zst(path):
    """The file ends where a line and a block of compressed data end: only the frame's end is missing."""
    packer = zstandard.ZstdCompressor().compressobj()
    path.write_bytes(packer.compress(LINES) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))


def cut_gz(path):
    packer = zlib.compressobj(wbits=31)
    path.write_bytes(packer.compress(LINES) + packer.flush(zlib.Z_SYNC_FLUSH))


def cut(path, write, end=1):
    write(path)
    path.write_bytes(path.read_bytes()[:-end])


def cut_stream(path):
    """Without the mark of its end the stream is one that pyarrow itself reads to its last batch."""
    cut(path, WRITTEN["stream.arrow"], 8)
    with pa.OSFile(str(path)) as file:
        assert pa.ipc.open_stream(file).read_all().num_rows == len(GIVEN)


def cut_dataset(path):
    save_dataset(path, GIVEN)
    (path / "data-00001-of-00002.arrow").unlink()


def cut_state(path):
    save_dataset(path, GIVEN)
    (path / "state.json").write_text('{"_data_files": [')


def cut_tfds(path):
    save_tfds(path)
    (path / "manifest.json").unlink()  # as where another program wrote the dataset
    (shard,) = path.glob("*.tfrecord*")
    tf, _ = start()
    whole = list(tf.data.TFRecordDataset(str(shard)).as_numpy_iterator())
    with tf.io.TFRecordWriter(str(shard)) as writer:
        for data in whole[:-1]:
            writer.write(data)


@pytest.mark.parametrize(
    ("name", "write", "missing"),
    [
        ("a.jsonl.zst", cut_zst, "not a whole zstandard file: it ends in the middle"),
        ("a.jsonl.gz", cut_gz, "not a whole gzip file: it ends in the middle"),
        ("b.jsonl.gz", lambda p: cut(p, WRITTEN["docs.jsonl.gz"], 3), "not a whole gzip file"),
        ("a.jsonl.xz", lambda p: cut(p, WRITTEN["docs.jsonl.xz"], 4), "not a whole xz file"),
        ("a.txt.xz", lambda p: p.write_bytes(b"no xz at all"), "not a whole xz file"),
        ("a.json", lambda p: cut(p, WRITTEN["docs.json"]), r"a\.json:7: not a whole JSON list"),
        ("a.csv", lambda p: p.write_text('id,text\n1,"cut in a quot'), "not a CSV file.*unexpected end of data"),
        ("a.parquet", lambda p: cut(p, WRITTEN["docs.parquet"], 9), "not a whole Parquet file: its footer"),
        ("a.arrow", cut_stream, "not a whole Arrow stream: its end is missing"),
        ("b.arrow", lambda p: cut(p, WRITTEN["file.arrow"], 6), "not a whole Arrow file"),
        ("c.arrow", lambda p: p.write_bytes(b""), "not a whole Arrow"),
        ("saved", cut_dataset, r"not a whole dataset: data-00001-of-00002\.arrow is missing"),
        ("halved", cut_state, r"state\.json:1: not JSON: .*; save the dataset again"),
        ("a.tfrecord", lambda p: cut(p, save_tfrecord, 5), r"not a whole TFRecord file: truncated record at [^\[{]*$"),
        ("a.array_record", lambda p: cut(p, save_array_record, 100), "not a whole ArrayRecord file"),
        ("tiger/1.0.0", cut_tfds, "not a whole TFDS dataset: Input dataset was expected to contain 6 elements"),
    ],
)
def test_a_file_that_was_cut_is_refused_and_never_a_shorter_one(tmp_path, name, write, missing):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write(path)
    with pytest.raises(DataError, match=missing) as error:
        list(records.documents(path))
    assert str(path) in str(error.value)
    with pytest.raises(DataError, match=missing):
        dedup_files("exact", [path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
