"""A small file that becomes one record of gigabytes is refused before it fills the memory, in every text format."""

import gzip
import lzma
import resource
import subprocess
import sys

import pytest
import zstandard

from tigerjax import records
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import packed

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


def read(path):
    return [record for block in records.blocks([path]) for _, record, _ in records.read_block(block)]


def little_memory():
    resource.setrlimit(resource.RLIMIT_AS, (1_200_000_000, 1_200_000_000))


@pytest.mark.parametrize(("name", "content"), FILES.items(), ids=FILES)
def test_a_record_may_have_so_many_bytes_and_no_more(tmp_path, monkeypatch, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    assert any(len(record["text"]) == 3_000_000 for record in read(path))
    monkeypatch.setenv(packed.RECORD_BYTES_OPTION, "1000000")
    with pytest.raises(DataError, match=rf"{name}:\d+: .*") as caught:
        read(path)
    assert "1,000,000 bytes" in str(caught.value) or "field limit (1000000)" in str(caught.value)


def test_the_limit_itself_must_make_sense(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    for wrong in ("0", "-1", "1e9", "many"):
        monkeypatch.setenv(packed.RECORD_BYTES_OPTION, wrong)
        with pytest.raises(ConfigError, match=f"{packed.RECORD_BYTES_OPTION}={wrong} must be a whole number of bytes"):
            list(records.read(tmp_path / "a.jsonl"))


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
