"""Exact substrings: what a simple search over all documents finds, and nothing else; one occurrence stays."""

import random

import numpy as np
import pytest
import xxhash
from linear import assert_linear

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.stages.runner import Runner
from tigerjax.text import substrings
from tigerjax.text.substrings import MASK, anchors, spans_of, substring_files

DRAW = random.Random(5)


def noise(count):
    return "".join(DRAW.choice("abcdefgh 天地玄黄宇宙洪荒\n") for _ in range(count))


def searched(texts, length):
    """{id: spans} of all runs that occur before, by a dict of every run."""
    order = sorted(texts, key=lambda name: xxhash.xxh3_64_intdigest(name.encode()))
    seen, out = set(), {}
    for name in order:
        text = texts[name]
        starts = []
        for at in range(len(text) - length + 1):
            run = text[at : at + length]
            if run in seen:
                starts.append(at)
            seen.add(run)
        if starts:
            out[name] = spans_of(np.array(starts), length)
    return out


@pytest.fixture(scope="module")
def texts():
    copied = [noise(120), noise(300), "a" * 200, noise(100), noise(99)]
    made = {}
    for n in range(40):
        pieces = [noise(DRAW.randrange(1, 200)) for _ in range(4)]
        if n % 2:
            pieces.insert(DRAW.randrange(5), DRAW.choice(copied))
        if n % 5 == 0:
            pieces.insert(DRAW.randrange(5), copied[n % 3][DRAW.randrange(60) :])
        made[f"d{n}"] = "".join(pieces)
    return made


def written(path, texts):
    jsonl.write_jsonl(path, [{"id": name, "text": text} for name, text in texts.items()])
    return path


def read(path):
    return {record["id"]: record["text"] for _, record in jsonl.read_jsonl(path)}


def test_every_run_that_occurs_twice_is_found_and_one_occurrence_stays(texts, tmp_path):
    wanted = searched(texts, 100)
    assert len(wanted) > 15
    made = substring_files([written(tmp_path / "docs.jsonl", texts)], tmp_path / "out")
    got = read(tmp_path / "out" / "docs.jsonl")
    left = {name: substrings.without(text, wanted.get(name, ()), "cut") for name, text in texts.items()}
    assert got == {name: text for name, text in left.items() if name not in wanted or len(text.strip()) >= 50}
    figures = made["figures"]
    assert figures["spans"] == sum(map(len, wanted.values()))
    assert figures["characters"] == sum(end - start for spans in wanted.values() for start, end in spans)
    assert made["counts"]["in"] == made["counts"]["out"] + made["counts"]["dropped"].get("substrings", 0) == 40
    again = substring_files([tmp_path / "out"], tmp_path / "twice")
    assert again["figures"]["spans"] == 0 and read(tmp_path / "twice" / "docs.jsonl") == got


def test_the_order_of_the_input_and_the_division_of_the_work_change_no_byte(texts, tmp_path, monkeypatch):
    substring_files([written(tmp_path / "docs.jsonl", texts)], tmp_path / "one")
    monkeypatch.setattr(block, "BLOCK_BYTES", 3000)
    (tmp_path / "in").mkdir()
    other = written(tmp_path / "in" / "docs.jsonl", dict(reversed(texts.items())))
    substring_files([other], tmp_path / "two", shards=3, runner=Runner(workers=2))
    for name in ("docs.jsonl", "samples.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_masked_run_leaves_its_mark_and_a_document_that_was_only_a_copy_is_dropped(tmp_path):
    text = noise(400)
    own = "The tiger walks in the mountains of the north, and nobody sees it there. "
    given = {"a": text, "b": text, "c": f"{own}{text[50:300]}{own[::-1]}"}
    made = substring_files([written(tmp_path / "docs.jsonl", given)], tmp_path / "out", action="mask")
    got = read(tmp_path / "out" / "docs.jsonl")
    assert made["counts"]["dropped"] == {"substrings": 1} and set(got) <= {"a", "b", "c"}
    assert got["c"] == f"{own}{MASK}{own[::-1]}" or got["c"] == given["c"]  # whose id comes first decides
    with pytest.raises(ConfigError, match="length=49 must be at least 50"):
        substring_files([tmp_path / "docs.jsonl"], tmp_path / "no", length=49)
    jsonl.write_jsonl(tmp_path / "sft.jsonl", [{"id": "s", "instruction": text, "output": text}])
    with pytest.raises(DataError, match=r"sft\.jsonl:1: id 's': an SFT example"):
        substring_files([tmp_path / "sft.jsonl"], tmp_path / "no")


def test_equal_runs_hold_equal_anchors():
    hashes = np.random.default_rng(0).integers(0, 50, 500).astype(np.uint64)
    found = set(anchors(hashes, 10).tolist())
    for at in range(len(hashes) - 9):
        smallest = hashes[at : at + 10].min()
        assert all((at + n in found) for n in range(10) if hashes[at + n] == smallest)
    assert len(anchors(np.random.default_rng(1).integers(0, 2**63, 10_000).astype(np.uint64), 51)) < 600


def test_it_is_linear_in_a_text_of_one_character(tmp_path):
    def work(size):
        path = written(tmp_path / f"{size}.jsonl", {"a": "a" * 40 * size, "b": "ab" * 20 * size})
        substring_files([path], tmp_path / f"out-{size}")

    assert_linear(work, 8000)
