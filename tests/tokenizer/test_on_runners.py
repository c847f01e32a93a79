"""`tokenizer sample`, `verify` and `stats` work block by block, and any runner gives the same bytes and figures."""

import json
import re
import subprocess
import sys

import pytest

from tigerjax.command import cli
from tigerjax.errors import DataError
from tigerjax.files.jsonl import write_jsonl
from tigerjax.records import Inputs
from tigerjax.records import block as sizes
from tigerjax.stages.runner import Runner
from tigerjax.tokenizer.sample import sample
from tigerjax.tokenizer.stats import stats
from tigerjax.tokenizer.texts import over
from tigerjax.tokenizer.verify import verify


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Two files of several blocks each, and one that is a block."""
    monkeypatch.setattr(sizes, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(sizes, "SCAN_BYTES", 500)
    given = [
        {"id": f"{name}{n}", "text": f"{name} 号 {n}：春眠不觉晓。\n{'words 字 ' * (n % 7)}"}
        for name in "ab"
        for n in range(200)
    ]
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "c.jsonl.zst"]
    write_jsonl(paths[0], given[:200])
    write_jsonl(paths[1], given[200:])
    write_jsonl(paths[2], [{"id": f"c{n}", "text": f"line {n} 𠮷"} for n in range(60)])
    return Inputs(paths)


def counted(number, texts):
    return [number, sum(1 for _ in texts)]


def test_texts_come_in_blocks_in_the_order_of_the_files(texts):
    found = over(counted, texts, Runner(), "counted")
    assert [number for number, _ in found] == list(range(len(found))) and len(found) > 5
    assert sum(count for _, count in found) == 460


@pytest.mark.parametrize("most", [10**6, 150])
def test_two_workers_draw_the_sample_that_one_draws(texts, tmp_path, most):
    made = {}
    for workers in (1, 2):
        out = tmp_path / f"of{workers}"
        figures = sample(
            inputs=texts,
            out=out,
            fraction=0.5,
            seed=3,
            min_sample_bytes=1,
            max_sentences=most,
            runner=Runner(workers=workers),
        )["figures"]
        assert figures.pop("seconds") and figures.pop("mb_per_s_per_core")
        made[workers] = figures, (out / "sample.txt").read_bytes()
        assert sorted(p.name for p in out.iterdir()) == ["manifest.json", "sample.txt"]
    assert made[1] == made[2]
    figures, lines = made[1][0], made[1][1].decode().splitlines()
    assert figures["sentences"] == len(lines) == min(most, figures["sentences_seen"])


def test_the_thinned_sentences_are_those_of_the_smallest_hashes(texts, tmp_path):
    """The same as one pass over all hashes in memory would choose."""
    import xxhash

    how = {"inputs": texts, "fraction": 1.0, "seed": 1, "min_sample_bytes": 1}
    sample(out=tmp_path / "all", **how)
    sample(out=tmp_path / "few", max_sentences=77, **how)
    draws = []
    for path in texts[:2]:
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            given = [part for part in record["text"].split("\n") if part.strip()]
            draws += [(xxhash.xxh3_64_intdigest(f"1\0{record['id']}\0{n}".encode()), t) for n, t in enumerate(given)]
    draws += [(xxhash.xxh3_64_intdigest(f"1\0c{n}\0{0}".encode()), f"line {n} 𠮷") for n in range(60)]
    limit = sorted(draw for draw, _ in draws)[77]
    wanted = [text for draw, text in draws if draw < limit]
    assert (tmp_path / "few" / "sample.txt").read_text(encoding="utf-8").split("\n")[:-1] == wanted


def test_two_workers_measure_and_check_as_one_does(work, texts):
    one, two = (stats(work / "tokenizer", texts, Runner(workers=n)) for n in (1, 2))
    assert one == two == stats(work / "tokenizer", texts) and one["in_bytes"]["𠮷"] == 60
    one, two = (verify(work / "tokenizer", work / "base_tokenizer", texts, Runner(workers=n)) for n in (1, 2))
    assert one == two and one["plain_lines"] + one["mixed_lines"] > 500


def test_a_bad_record_and_an_empty_file_are_named_from_any_worker(work, texts, tmp_path):
    with open(texts[1], "a", encoding="utf-8") as file:
        file.write('{"id": "bad"}\n')
    with pytest.raises(DataError, match=r"b\.jsonl:201"):
        stats(work / "tokenizer", texts, Runner(workers=2))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl"):
        stats(work / "tokenizer", Inputs([texts[0], tmp_path / "empty.jsonl"]))
    with pytest.raises(DataError, match="does not exist"):
        stats(work / "tokenizer", Inputs([tmp_path / "none.jsonl"]))


def test_bad_records_are_put_aside_and_counted_up_to_a_fraction(texts, tmp_path, capsys):
    with open(texts[0], "ab") as file:
        file.write(b'{"id": "no text"}\n{"id": "half\n{"id": "x", "text": "\xff"}\n')
    texts.append(tmp_path / "d.csv")
    texts[-1].write_bytes(b"id,text\nd0,fine\nd1,\xff\n")
    given = [*map(str, texts)]
    words = ["tokenizer", "sample", "--input", *given, "--fraction", "1", "--min-sample-bytes", "1", "--out"]
    assert cli.main([*words, str(tmp_path / "no")]) == 3
    said = capsys.readouterr().err
    assert re.search(r"a\.jsonl:201: id 'no text': .* \(4 of 465 records are bad, at most 0\.1% may be\)", said)
    assert not (tmp_path / "no").exists()
    made = {}
    for workers in ("1", "2"):
        out = tmp_path / f"of{workers}"
        assert cli.main([*words, str(out), "--max-bad-fraction", "0.01", "--workers", workers]) == 0
        assert f"4 lines are no records; they stand with their errors in {out / 'quarantine.json'}" in (
            capsys.readouterr().err
        )
        counts = json.loads((out / "manifest.json").read_text())["counts"]
        made[workers] = counts, (out / "sample.txt").read_bytes(), (out / "quarantine.json").read_bytes()
    assert made["1"] == made["2"] and made["1"][0] == {"in": 465, "out": 461, "dropped": {"bad": 4}}
    places = [entry["error"].split(": ")[0].rpartition("/")[2] for entry in json.loads(made["1"][2])]
    assert places == ["a.jsonl:201", "a.jsonl:202", "a.jsonl:203", "d.csv:3"]


def test_pages_of_web_archives_that_cannot_be_decoded_are_left_out_and_counted(work, tmp_path, capsys):
    page = b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s\r\n\r\n"
    (tmp_path / "a.wet").write_bytes(b"".join(page % (len(text), text) for text in (b"The tiger walks.", b"\xff\xfe!")))
    figures = stats(work / "tokenizer", Inputs([tmp_path / "a.wet"]))
    assert figures["languages"]["en"]["characters"] == len("The tiger walks.")
    assert "a.wet: 1 pages of web archives cannot be decoded, and are left out" in capsys.readouterr().err


def test_the_commands_take_workers(work, texts, tmp_path):
    command = [sys.executable, "-m", "tigerjax", "tokenizer", "stats", work / "tokenizer", "--text", *texts]
    for workers in ("1", "2"):
        out = tmp_path / f"{workers}.json"
        subprocess.run([*map(str, command), "--workers", workers, "--json", str(out)], check=True, capture_output=True)
    assert json.loads((tmp_path / "1.json").read_text()) == json.loads((tmp_path / "2.json").read_text())
