"""A small file that becomes one record of gigabytes is refused before it fills the memory, in every text format."""

import gzip
import lzma
import resource
import subprocess
import sys

import pyarrow
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet
import pytest
import zstandard

from tigerjax import records
from tigerjax.command import cli, options, table
from tigerjax.errors import DataError
from tigerjax.records.tf import start

LONG = b'{"id": "a", "text": "' + b"x" * 3_000_000 + b'"}\n'
FILES = {
    "a.jsonl": LONG,
    "b.txt": b"short\n" + b"x" * 3_000_000 + b"\n",
    "c.json": b"[" + LONG + b"]",
    "d.csv": b"id,text\n1," + b"x" * 3_000_000 + b"\n",
    "e.csv": b'id,text\n1,"' + b"x\n" * 1_500_000 + b'"\n',
    "f.jsonl.gz": gzip.compress(LONG),
    "g.jsonl.xz": lzma.compress(LONG),
    "h.jsonl.zst": zstandard.compress(LONG),
    "i.json.zst": zstandard.compress(b"[" + LONG + b"]"),
}


def read(path, **how):
    files = records.Files([path], records.Reading(**how))
    return [record for block in records.blocks(files) for _, record, _ in records.read_block(block)]


def little_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1_200_000_000, 1_200_000_000))


@pytest.mark.parametrize(("name", "content"), FILES.items(), ids=FILES)
def test_a_record_may_have_so_many_bytes_and_no_more(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert any(len(record["text"]) == 3_000_000 for record in read(path))
    with pytest.raises(DataError, match=rf"{name}:\d+: .*") as caught:
        read(path, max_bytes=1_000_000)
    assert "1,000,000 bytes" in str(caught.value) or "field limit (1000000)" in str(caught.value)


def column(row):
    return pyarrow.table({"text": ["short", "x" * row]})


def parquet(path):
    pyarrow.parquet.write_table(column(3_000_000), path, row_group_size=1)


def mixed_group(path):
    """One long row among many short ones: the mean of the group says nothing."""
    pyarrow.parquet.write_table(pyarrow.table({"text": ["short"] * 999 + ["x" * 3_000_000]}), path)


def arrow(path):
    with pyarrow.ipc.new_stream(path, column(1).schema) as file:
        file.write_table(column(3_000_000))


def feather(path):
    pyarrow.feather.write_feather(column(3_000_000), str(path))


def tfrecord(path):
    tf, _ = start()
    kind = "GZIP" if path.suffix == ".gz" else ""
    with tf.io.TFRecordWriter(str(path), kind) as file:
        file.write(b'{"text": "short"}')
        file.write(LONG.strip())


def array_record(path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    writer.write(b'{"text": "short"}')
    writer.write(LONG.strip())
    writer.close()


BINARY = {
    "a.parquet": parquet,
    "b.parquet": mixed_group,
    "c.arrow": arrow,
    "d.feather": feather,
    "e.tfrecord": tfrecord,
    "f.tfrecord.gz": tfrecord,
    "g.array_record": array_record,
}


@pytest.mark.parametrize("name", BINARY)
def test_a_record_of_a_binary_format_may_have_so_many_bytes_and_no_more(tmp_path, name):
    BINARY[name](tmp_path / name)
    assert max(len(record["text"]) for record in read(tmp_path / name)) == 3_000_000
    with pytest.raises(DataError, match=rf"{name}:\d+.*: this record has more than 1,000,000 bytes.*--max-record-mb"):
        read(tmp_path / name, max_bytes=1_000_000)


def test_a_length_that_only_the_header_says_takes_no_memory(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes((8 << 30).to_bytes(8, "little") + bytes(12))
    with pytest.raises(DataError, match=r"a\.tfrecord:1: this record has more than 100,000,000 bytes"):
        read(tmp_path / "a.tfrecord")


COMMANDS = (
    "data clean --input a.jsonl --out x",
    "data dedup exact --input a.jsonl --out x",
    "tokenizer sample --input a.jsonl --out x --fraction 1",
    "tokenizer train --input a.jsonl --vocab-size 300 --out x",
)


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "many", "1e12"])
@pytest.mark.parametrize("command", COMMANDS)
def test_the_limit_itself_must_make_sense(capsys, command, wrong):
    assert cli.main([*command.split(), "--max-record-mb", wrong]) == 2
    assert f"--max-record-mb {wrong}" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_refuses_a_record_above_its_limit(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(LONG)
    assert cli.main([*command.split(), "--max-record-mb", "1"]) == 3
    assert "a.jsonl:1: this record has more than 1,000,000 bytes" in capsys.readouterr().err


def test_every_command_that_reads_records_takes_the_limit_and_the_text_unit():
    for words, command in table.COMMANDS.items():
        names = {option.name for option in options.of_command(command)}
        reads = words[0] in ("data", "tokenizer") and names & {"--input", "--docs", "--text"}
        assert not reads or {"--max-record-mb", "--text-unit"} <= names, words


def test_a_bomb_of_zstandard_fills_no_memory(tmp_path):
    """300 kB that become one line of 3 GB. The process may use 1.2 GB of addresses."""
    path, more = tmp_path / "bomb.jsonl.zst", b"x" * (1 << 20)
    with zstandard.ZstdCompressor(level=3).stream_writer(open(path, "wb")) as file:
        file.write(b'{"text": "')
        for _ in range(3 * 1024):
            file.write(more)
    assert path.stat().st_size < 400_000
    code = (
        "import sys\nfrom tigerjax.files import jsonl\nfrom tigerjax.errors import DataError\n"
        "try:\n    list(jsonl.read_jsonl(sys.argv[1]))\nexcept DataError as error:\n    print(error)\n"
    )
    command = [sys.executable, "-c", code, path]
    ended = subprocess.run(command, preexec_fn=little_memory, capture_output=True, text=True)
    assert "bomb.jsonl.zst:1: this record has more than 100,000,000 bytes" in ended.stdout, ended.stderr
