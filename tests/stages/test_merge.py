"""Merging: any number of parts with few open files, in the same order."""

import os
import resource

import pytest

from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.stages import merge
from tigerjax.text.dedup import dedup_files


@pytest.fixture
def few_open_files():
    """As many open files as MOST_OPEN and a few more, where 16 GB of input would have a thousand parts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + merge.MOST_OPEN + 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def lines(path):
    with open(path, "rb") as file:
        for line in file:
            yield line[:3].decode(), line[:-1]


def test_more_parts_than_files_may_be_open_are_merged_in_rounds(tmp_path, few_open_files):
    for n in range(300):
        made = sorted(f"{(n * 7 + k * 311) % 1000:03} of {n}\n" for k in range(5))
        (tmp_path / f"part-{n}").write_text("".join(made))
    sources = [tmp_path / f"part-{n}" for n in range(300)]
    assert merge.merge_lines([lines(path) for path in sources], tmp_path / "out") == 1500
    every = [pair for path in sources for pair in lines(path)]
    wanted = [line for _, line in sorted(every, key=lambda pair: pair[0])]  # equal ids keep the order of the sources
    assert (tmp_path / "out").read_bytes().splitlines() == wanted
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["out", *(path.name for path in sources)])


def test_a_stage_of_more_parts_than_files_may_be_open(tmp_path, monkeypatch, few_open_files):
    monkeypatch.setattr(block, "BLOCK_BYTES", 40)
    records = [{"id": f"{i * 37 % 250:03}", "text": f"text number {i}"} for i in range(250)]
    jsonl.write_jsonl(tmp_path / "in.jsonl", records)
    made = dedup_files("exact", [tmp_path / "in.jsonl"], tmp_path / "out")
    assert made["counts"]["out"] == 250
    ids = [record["id"] for _, record in jsonl.read_jsonl(tmp_path / "out" / "in.jsonl")]
    assert ids == sorted(ids)
