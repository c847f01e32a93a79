"""Every format gives the same records to every stage, and a file that was cut short is never read as a shorter one."""

import gzip
import json
import lzma
import os
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from file_formats import GIVEN, LINES, LISTED, WRITTEN, save_dataset

from tigerjax import records
from tigerjax.align import reward_data
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, manifest
from tigerjax.records import block, text_files
from tigerjax.text.clean import clean_files
from tigerjax.text.decontaminate import decontaminate_files
from tigerjax.text.dedup import against_sft_files, dedup_files
from tigerjax.tokenizer.sample import read_documents


@pytest.mark.parametrize("name", WRITTEN)
def test_every_stage_reads_every_format(tmp_path, name):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITTEN[name](path)
    assert list(records.documents(path)) == GIVEN
    first, _ = next(records.read(path))
    assert first == (2 if name in ("docs.csv", "docs.tsv") else 1)  # behind the names of the columns
    by_block = [record for b in records.blocks([path]) for _, record, _ in records.read_block(b)]
    assert by_block == [record for _, record in records.read(path)] and len(by_block) == len(GIVEN)
    assert [(i, text) for i, text, _ in read_documents(path)] == [(r["id"], r["text"]) for r in GIVEN]

    sft = tmp_path / "sft.jsonl"
    sft.write_text('{"instruction": "Name a city.", "output": "Paris is a city."}\n')
    out = records.output_name(path)
    stages = {
        "clean": lambda to: clean_files([path], to),
        "exact": lambda to: dedup_files("exact", [path], to),
        "near": lambda to: dedup_files("near", [path], to, threshold=1.0),
        "sft": lambda to: against_sft_files([path], [sft], to),
        "asked": lambda to: decontaminate_files([path], [path], to, action="report"),
    }
    for stage, call in stages.items():
        counts = call(tmp_path / stage)["counts"]
        assert counts["in"] == counts["out"] == len(GIVEN), stage
        assert [record for _, record in records.read(tmp_path / stage / out)] == GIVEN, stage


def test_a_line_of_plain_text_is_a_document(tmp_path):
    text = "\ufeff第一行。\r\n\n  \nthe third, {not JSON}\n"
    for name in ("a.txt", "b", "c.md"):
        (tmp_path / name).write_bytes(text.encode())
        first, third = records.documents(tmp_path / name)
        assert (first["text"], third["text"]) == ("第一行。", "the third, {not JSON}")
        assert [number for number, _ in records.read(tmp_path / name)] == [1, 4]
    (tmp_path / "z.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert list(records.documents(tmp_path / "z.txt.gz")) == [first, third]


def test_ids_of_plain_text_are_those_by_which_the_tokenizer_always_drew(tmp_path):
    import xxhash

    (tmp_path / "a.txt").write_text("一行\n")
    ((identity, text, lang),) = read_documents(tmp_path / "a.txt")
    assert (identity, text, lang) == (xxhash.xxh3_128_hexdigest("一行".encode()), "一行", None)


def test_compressed_files_of_several_frames_are_read_to_their_end(tmp_path):
    first, second = LINES[:100], LINES[100:]
    skipped = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"notes"  # a frame of zstandard that holds no text
    for name, data in {
        "a.jsonl.zst": zstandard.compress(first) + skipped + zstandard.compress(second),
        "a.jsonl.gz": gzip.compress(first) + gzip.compress(second) + b"\0" * 512,
        "a.jsonl.xz": lzma.compress(first) + lzma.compress(second) + b"\0" * 8,
    }.items():
        (tmp_path / name).write_bytes(data)
        assert list(records.documents(tmp_path / name)) == GIVEN, name


def test_parquet_and_datasets_are_cut_into_blocks_that_know_their_rows(tmp_path, monkeypatch):
    monkeypatch.setattr(block, "BLOCK_BYTES", 1)
    for name in ("docs.parquet", "saved"):
        WRITTEN[name](tmp_path / name)
    found = records.blocks([tmp_path / "docs.parquet", tmp_path / "saved"])
    assert [(b.number, b.start, b.end, b.first) for b in found] == [
        (0, 0, 1, 1),
        (1, 1, 2, 3),
        (2, 2, 3, 5),
        (3, 0, 1, 1),
        (4, 1, 2, 4),
    ]
    read = [(number, record["id"]) for b in found for number, record, _ in records.read_block(b)]
    assert read == [(n + 1, f"d{n}") for n in range(6)] * 2


def test_columns_become_what_json_holds_and_null_is_no_field(tmp_path):
    import datetime
    import decimal

    row = {
        "id": None,
        "text": "a",
        "day": datetime.date(2026, 11, 29),
        "price": decimal.Decimal("1.50"),
        "raw": "字".encode(),
        "meta": {"quality": 0.5, "none": None},
        "messages": [{"role": "user", "content": "q"}],
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    ((number, record),) = records.read(tmp_path / "a.parquet")
    assert number == 1 and record == {
        "text": "a",
        "day": "2026-11-29",
        "price": "1.50",
        "raw": "字",
        "meta": {"quality": 0.5, "none": None},
        "messages": [{"role": "user", "content": "q"}],
    }
    bad = pa.table({"id": ["a", "b"], "text": pa.array([b"fine", b"\xff"]).view(pa.string())})
    pq.write_table(bad, tmp_path / "bad.parquet")
    with pytest.raises(DataError, match=r"bad\.parquet:2: a text is not UTF-8"):
        list(records.read(tmp_path / "bad.parquet"))


def test_preferences_are_read_from_parquet(tmp_path):
    pair = {"messages": [{"role": "user", "content": "q"}], "chosen": "good", "rejected": "bad"}
    jsonl.write_jsonl(tmp_path / "pairs.jsonl", [pair])
    pq.write_table(pa.Table.from_pylist([pair]), tmp_path / "pairs.parquet")
    (columns, counts), (lines, others) = (reward_data.read([tmp_path / f"pairs.{e}"]) for e in ("parquet", "jsonl"))
    assert columns == lines and [name.replace("parquet", "jsonl") for name in counts.pop("where").values()] == [
        *others.pop("where").values()
    ]
    assert counts == others


@pytest.mark.parametrize("characters", [1, 7, 1 << 20])
def test_a_json_list_is_read_value_by_value(tmp_path, monkeypatch, characters):
    monkeypatch.setattr(text_files, "ARRAY_CHARACTERS", characters)
    path = tmp_path / "a.json"
    path.write_text(
        '\ufeff \n[ {"text": "[1, 2], {"} ,\n{"text": "b", "n": [12, {"c": null}]}, 1234, {"text": "d"}]\n '
    )
    bad = []
    got = list(records.read(path, on_bad=lambda error, data: bad.append((str(error), data))))
    assert got == [(1, {"text": "[1, 2], {"}), (2, {"text": "b", "n": [12, {"c": None}]}), (4, {"text": "d"})]
    assert bad == [(f"{path}:3: a JSON int, but each element of the list must be an object", b"1234\n")]
    with pytest.raises(DataError, match=r"a\.json:3: a JSON int"):
        list(records.read(path))
    path.write_text("[]")
    with pytest.raises(DataError, match=r"a\.json: is empty"):
        list(records.documents(path))
    for text, says in {
        '[{"a": 1} {"a": 2}]': r"a\.json:2: not a whole JSON list.*Expecting ',' delimiter",
        '[{"a": 1},]': r"a\.json:2: not a whole JSON list",
        '[{"a": 1}] [{"a": 2}]': r"a\.json: '\[.*' follows the JSON list",
        '[{"text": "\\ud800"}]': r"a\.json:1: a lone surrogate",
    }.items():
        path.write_text(text)
        with pytest.raises(DataError, match=says):
            list(records.read(path))
    path.write_bytes(b'[{"text": "\xff"}]')
    with pytest.raises(DataError, match=r"a\.json: invalid UTF-8"):
        list(records.read(path))


def test_a_csv_row_of_too_many_values_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("id,text\n1,one\n2,two,three\n")
    with pytest.raises(DataError, match=r"a\.csv:3: 3 values for the 2 columns of the first line"):
        list(records.documents(tmp_path / "a.csv"))


WHERE_A_TABLE_IS_WRONG = {
    b"id,text\na,o\xffne\nb,two\n": "2: id 'a': invalid UTF-8 in column 'text'",
    b"id,text\na,one\nb,t\xffwo\nc,three\n": "3: id 'b': invalid UTF-8 in column 'text'",
    b'id,text\na,"one\nand\nmore"\nb,t\xffwo\n': "5: id 'b': invalid UTF-8 in column 'text'",
    b'id,text\na,one\nb,"two\nand\nm\xffore"\n': "3: id 'b': invalid UTF-8 in column 'text'",
    b"id,text\r\na,one\r\n\r\nb,t\xffwo\r\n": "4: id 'b': invalid UTF-8 in column 'text'",
    b"id,te\xffxt\na,one\n": "1: not a CSV file in UTF-8; save the file as UTF-8",
    b'id,text\na,"one\nand\nmore"\nb,two,three\n': "5: 3 values for the 2 columns",
    b'id,text\na,one\nb,"\n\n"\n': "3: id 'b': field 'text' is empty",
    b'id,text\na,one\nb,"two" of them\nc,three\n': "3: not a CSV file in UTF-8: ',' expected after",
    b'id,text\na,one\nb,"two\nand more\nc,three\n': "3: not a CSV file in UTF-8: unexpected end of data",
}
"""{table: the first line of the record that is wrong, as an editor counts, and what is}."""


@pytest.mark.parametrize(("given", "says"), WHERE_A_TABLE_IS_WRONG.items())
def test_the_line_of_a_wrong_row_is_the_one_on_which_it_begins(tmp_path, given, says):
    for name, table in (("a.csv", given), ("a.tsv", given.replace(b",", b"\t"))):
        (tmp_path / name).write_bytes(table)
        said = says.replace("CSV", "TSV").replace("','", "'\t'") if name == "a.tsv" else says
        with pytest.raises(DataError, match=re.escape(f"{name}:{said}")):
            list(records.documents(tmp_path / name))


def test_a_row_of_a_table_that_is_not_utf8_is_put_into_quarantine_and_the_others_are_read(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'id,text\na,"one\nmore"\nb,t\xffwo\nc,three\n')
    made = clean_files([tmp_path / "a.csv"], tmp_path / "out", max_bad_fraction=0.5)
    assert made["counts"] == {"in": 3, "out": 2, "dropped": {"bad": 1}}
    (bad,) = json.loads((tmp_path / "out" / "quarantine.json").read_text())
    assert "a.csv:4: id 'b'" in bad["error"] and "wo" in bad["line"]


def test_a_column_of_bytes_that_are_no_text_is_named(tmp_path):
    table = pa.table({"id": ["a"], "text": ["one"], "said": [b"word"], "image": [b"\xff\x00"]})
    pq.write_table(table.drop_columns("image"), tmp_path / "fine.parquet")
    assert [r["said"] for r in records.documents(tmp_path / "fine.parquet")] == ["word"]
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"id 'a', field 'image': bytes that are no text .*; remove the column"):
        list(records.documents(tmp_path / "a.parquet"))


def test_folders_that_are_not_read_say_what_to_name_instead(tmp_path, capsys):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder: a folder without dataset_info\.json .*name the files in it"):
        list(records.documents(tmp_path / "folder"))
    save_dataset(tmp_path / "splits" / "test", GIVEN)
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["test"]}')
    with pytest.raises(DataError, match=r"splits: has the splits \['test'\], but 'train' is read"):
        list(records.documents(tmp_path / "splits"))
    save_dataset(tmp_path / "splits" / "train", GIVEN)
    (tmp_path / "splits" / "dataset_dict.json").write_text('{"splits": ["test", "train"]}')
    assert len(list(records.documents(records.expand([tmp_path / "splits"])[0]))) == len(GIVEN)
    assert "splits: the split 'train' is read, and not test; name a split's own folder" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(DataError, match=r"pipe\.jsonl: is a pipe or a device, which is read only once; write it"):
        records.expand([tmp_path / "pipe.jsonl"])
    state = tmp_path / "splits" / "test" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "_indices_files": [{"filename": "i.arrow"}]}))
    with pytest.raises(DataError, match=r"call dataset\.flatten_indices\(\)"):
        list(records.documents(tmp_path / "splits" / "test"))
    (tmp_path / "a.parquet.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"a\.parquet\.gz: this format is not read when it is compressed by gz"):
        list(records.documents(tmp_path / "a.parquet.gz"))


def test_capital_letters_in_a_name_are_read_as_small_ones(tmp_path):
    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(LINES))
    (tmp_path / "B.JSON").write_bytes(LISTED)
    for name in ("A.JSONL.GZ", "B.JSON"):
        assert list(records.documents(tmp_path / name)) == GIVEN


@pytest.mark.parametrize("name", ["docs", "docs.orc", "docs.zip", "docs.json", "docs.jsonl.bz2"])
def test_a_file_that_is_no_text_is_not_read_as_plain_text(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04\x14\0\0\0one line\nanother line\n")
    message = rf"{name}: (no text, and its name does not say which|an archive or a compression).*unpack it"
    with pytest.raises(DataError, match=message):
        list(records.documents(tmp_path / name))
    with pytest.raises(DataError, match="unpack it"):
        dedup_files("exact", [tmp_path / name], tmp_path / "out")


def test_a_file_that_is_named_twice_is_refused(tmp_path):
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(LINES)
    assert records.expand([tmp_path / "a.jsonl", tmp_path / "b.jsonl"]) == records.expand(tmp_path / "*.jsonl")
    with pytest.raises(ConfigError, match=r"input .*b\.jsonl is given twice; give it once"):
        records.expand([str(tmp_path / "*.jsonl"), tmp_path / "b.jsonl"])


def test_outputs_are_named_after_their_input_and_end_in_jsonl(tmp_path):
    names = {
        "a.jsonl": "a.jsonl",
        "a.jsonl.zst": "a.jsonl.zst",
        "a.jsonl.gz": "a.jsonl",
        "a.json": "a.jsonl",
        "a.txt.zst": "a.jsonl.zst",
        "a.parquet": "a.jsonl",
        "A.Parquet": "A.jsonl",
        "a.tsv": "a.jsonl",
        "A.JSONL.ZST": "A.JSONL.zst",
        "a.tfrecord-00000-of-00002": "a-00000-of-00002.jsonl",
        "lines": "lines",
    }
    assert {name: records.output_name(tmp_path / name) for name in names} == names
    (tmp_path / "zh_books" / "1.0.0").mkdir(parents=True)
    assert records.output_name(tmp_path / "zh_books" / "1.0.0") == "zh_books-1.0.0.jsonl"
    for name in ("docs.parquet", "docs.jsonl"):
        WRITTEN[name](tmp_path / name)
    with pytest.raises(ConfigError, match=r"docs\.parquet and .*docs\.jsonl have one name"):
        clean_files([tmp_path / "docs.parquet", tmp_path / "docs.jsonl"], tmp_path / "out")


def test_content_is_a_text_and_a_null_id_is_no_id(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": null, "title": "t", "content": "one"}\n{"id": null, "raw_content": "two", "lang": "en"}\n')
    one, two = records.documents(path)
    assert one == {
        "source": "",
        "lang": "",
        "id": records.record_id({"title": "t", "content": "one"}),
        "title": "t",
        "text": "one",
    }
    assert two["text"] == "two" and two["lang"] == "en"
    manifest = clean_files([path], tmp_path / "out")
    assert manifest["counts"] == {"in": 2, "out": 2, "dropped": {}}
    assert [record for _, record in jsonl.read_jsonl(tmp_path / "out" / "a.jsonl")] == [one, two]
    path.write_text('{"id": "x", "body": "three"}\n')
    with pytest.raises(
        DataError, match=r"id 'x': needs 'messages'.* or 'raw_content' as a document; has \['body', 'id'\]"
    ):
        dedup_files("exact", [path], tmp_path / "dedup")


def test_the_folder_of_a_finished_stage_stands_for_its_records(tmp_path):
    """What a stage notes beside them, in folders below and in *.json and *.html, is no input of the next stage."""
    names = ["a.jsonl", "b.jsonl.zst", "clusters/clusters.jsonl", "report.html", "sample.txt", "samples.json"]
    with manifest.stage(tmp_path / "out", name="made up", config={}, inputs=[], seed=0) as run:
        (run.tmp / "clusters").mkdir()
        for name in names:
            (run.tmp / name).write_text("")
    expected = [tmp_path / "out" / name for name in ("a.jsonl", "b.jsonl.zst", "sample.txt")]
    assert records.expand(tmp_path / "out") == expected
    with pytest.raises(ConfigError, match="given twice"):
        records.expand([tmp_path / "out", tmp_path / "out" / "a.jsonl"])


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("id,text,text\n1,first,second\n")
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "x.parquet")
    for name in ("x.csv", "x.parquet"):
        with pytest.raises(DataError, match="column 'text'"):
            list(records.documents(tmp_path / name))


@pytest.mark.parametrize("ending", [".gz", ".xz", ".zst"])
def test_a_file_that_is_called_compressed_and_is_not_is_told_to_be_renamed(tmp_path, ending):
    path = tmp_path / f"x.jsonl{ending}"
    path.write_text('{"text": "a"}\n' * 9)
    with pytest.raises(DataError, match="not compressed, although its name ends in"):
        list(records.documents(path))
