"""Files that are not what their names say, and records in a wrapper: the error says what the file is and what to do."""

import bz2
import gzip
import json
import lzma

import pytest

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.tokenizer.sample import read_documents

ROWS = [{"text": "The tiger walks."}, {"text": "It sleeps."}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def refused(path, match):
    with pytest.raises(DataError, match=match) as error:
        list(records.documents(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["x.json", "x.jsonl"])
@pytest.mark.parametrize("value", [ROWS[0], {"data": ROWS}])
def test_json_over_several_lines_is_named_with_the_way_to_write_it(tmp_path, name, value):
    (tmp_path / name).write_text(json.dumps(value, indent=2))
    refused(tmp_path / name, rf"{name}:1: broken JSON: .*JSON over several lines; write each record on one line")


def test_a_list_in_a_field_is_named(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"version": 1, "data": ROWS}))
    refused(tmp_path / "x.json", r"jq -c '\.data\[\]' FILE")
    for form in (records.as_sft, records.as_preference, records.as_record):
        with pytest.raises(DataError, match="if its 'train' is the list of records"):
            form({"train": ROWS}, "x.json:1")
    for turn in ({"role": "user", "content": "Hi"}, {"from": "human", "value": "Hi"}):
        with pytest.raises(DataError, match=r"a preference needs .*every form$"):
            records.as_preference({"messages": [turn]}, "x.jsonl:1")


@pytest.mark.parametrize(
    ("packed", "advice"),
    [
        (gzip.compress, "compressed by gzip: give its name the ending .gz"),
        (lzma.compress, "compressed by xz: give its name the ending .xz"),
        (bz2.compress, "compressed by bzip2: unpack it"),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.txt"])
def test_a_compressed_file_without_its_ending_is_named(tmp_path, packed, advice, name):
    (tmp_path / name).write_bytes(packed(LINES.encode() * 3))
    refused(tmp_path / name, advice)


@pytest.mark.parametrize("name", ["x.jsonl.bz2", "x.zip", "x.tar", "x.tar.gz", "x.tgz", "X.7Z"])
def test_an_archive_is_to_be_unpacked(tmp_path, name):
    data = gzip.compress(LINES.encode()) if name.endswith("gz") else bz2.compress(LINES.encode())
    (tmp_path / name).write_bytes(data)
    refused(tmp_path / name, "unpack it")


def test_jsonl_that_is_named_txt_is_read_as_jsonl_and_said(tmp_path, capsys):
    (tmp_path / "x.txt").write_text(LINES)
    assert [r["text"] for r in records.documents(tmp_path / "x.txt")] == [row["text"] for row in ROWS]
    assert "x.txt: named .txt, but the first line is a JSON object, so it is read as JSONL" in capsys.readouterr().err
    (tmp_path / "x.txt").write_text(json.dumps({"text": "long " * 2000}) + "\n")
    assert len(next(records.documents(tmp_path / "x.txt"))["text"]) == 10_000
    capsys.readouterr()
    whole = records.Inputs([tmp_path / "x.txt"], reading=records.Reading(text_unit="file"))
    assert next(records.documents(whole))["text"].startswith("{") and not capsys.readouterr().err


@pytest.mark.parametrize("text", ["{curly} words\nmore\n", '{"quoted": words}\nmore\n', "Words\n" + LINES])
def test_text_that_only_looks_like_json_stays_text(tmp_path, capsys, text):
    (tmp_path / "x.txt").write_text(text)
    assert [r["text"] for r in records.documents(tmp_path / "x.txt")] == text.splitlines()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("source", [["c4"], {"name": "c4"}])
def test_a_source_that_is_no_text_is_refused_by_its_line(tmp_path, source):
    (tmp_path / "x.jsonl").write_text(json.dumps({"text": "a", "source": source}) + "\n")
    refused(tmp_path / "x.jsonl", r"x\.jsonl:1: field 'source' is (list|dict) .*text is needed")
    with pytest.raises(DataError, match="field 'source' is"):
        records.as_record({"text": "a", "source": source}, "x.jsonl:1")  # as `data clean` reads it


def test_a_transcript_with_line_ends_of_windows_is_read(tmp_path):
    pair = {side: f"\r\n\r\nHuman: Sky?\r\n\r\nAssistant: {side}" for side in ("chosen", "rejected")}
    made = records.as_preference(pair, "x.jsonl:1")
    assert made["messages"] == [{"role": "user", "content": "Sky?"}] and made["chosen"] == "chosen"


def test_a_language_that_is_no_text_counts_as_none_and_is_said(tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({**r, "lang": ["en"]}) + "\n" for r in ROWS))
    assert [lang for *_, lang in read_documents(tmp_path / "x.jsonl")] == [None, None]
    assert "the field 'lang' of 2 records is no text" in capsys.readouterr().err
