"""Ids of records: those that files give, those that are made, and what happens when two are the same."""

import json
import tracemalloc

import pytest
from linear import assert_linear

from tigerjax import records
from tigerjax.command.cli import main
from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.records.ids import Identity, SeenIds
from tigerjax.stages import parts
from tigerjax.text.clean import clean_files
from tigerjax.text.decontaminate import decontaminate_files
from tigerjax.text.dedup import dedup_files

TEXTS = [
    "The tiger walks through the tall grass.",
    "A river runs to the sea.",
    "The tiger walks through the tall grass.",
]
PER_SHARD = {
    "part-0.jsonl": [{"id": 0, "text": "One here."}, {"id": 1, "text": "Two here."}],
    "part-1.jsonl": [{"id": 0, "text": "Three here."}, {"id": 1, "text": "Four here."}],
}


def shards(folder):
    for name, given in PER_SHARD.items():
        jsonl.write_jsonl(folder / name, given)
    return [folder / name for name in PER_SHARD]


def read(folder, name="x.jsonl"):
    return [record for _, record in jsonl.read_jsonl(folder / name)]


@pytest.mark.parametrize("none", [None, "", float("nan")])
def test_null_and_empty_ids_are_none(none):
    made = records.identity("x.jsonl:1", {"id": none, "text": "a"})
    assert made == records.identity("x.jsonl:1", {"text": "a"}) == (records.record_id({"text": "a"}), True)


@pytest.mark.parametrize(("given", "shown"), [("a", "a"), (7, "7"), (0, "0"), (7.0, "7"), (7.5, "7.5")])
def test_given_ids_are_text(given, shown):
    assert records.identity("x.jsonl:1", {"id": given, "text": "a"}) == (shown, False)


def test_an_id_of_another_type_is_named():
    with pytest.raises(DataError, match=r"x\.jsonl:1: id \['a'\] is neither text nor a number"):
        records.identity("x.jsonl:1", {"id": ["a"], "text": "a"})


@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_de_duplication_drops_equal_records_without_ids_and_counts_them(tmp_path, capsys, form):
    lines = TEXTS if form == "txt" else [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / f"x.{form}").write_text("\n".join(lines) + "\n")
    for kind in ("exact", "near"):
        made = dedup_files(kind, [tmp_path / f"x.{form}"], tmp_path / kind)
        assert made["counts"] == {"in": 3, "out": 2, "dropped": {kind: 1}}
        assert made["figures"]["numbered"] == 1
        assert {record["text"] for record in read(tmp_path / kind)} == set(TEXTS)
        assert "1 records without an id are equal to an earlier one; they are dropped" in capsys.readouterr().err


def test_other_stages_number_equal_records_without_ids_and_say_so(tmp_path, capsys, monkeypatch):
    jsonl.write_jsonl(tmp_path / "x.jsonl", ({"text": text} for text in TEXTS * 4))
    jsonl.write_jsonl(tmp_path / "questions.jsonl", [{"question": "What is quite another matter of this world?"}])
    monkeypatch.setattr(block, "BLOCK_BYTES", 200)  # several blocks
    monkeypatch.setattr(block, "SCAN_BYTES", 50)
    tiger, river = (records.record_id({"text": text}) for text in TEXTS[:2])
    ids = {tiger, river, *(f"{tiger}-{n:06d}" for n in range(2, 9)), *(f"{river}-{n:06d}" for n in range(2, 5))}
    cleaned = clean_files([tmp_path / "x.jsonl"], tmp_path / "clean")
    assert cleaned["counts"] == {"in": 12, "out": 12, "dropped": {}} and cleaned["figures"]["numbered"] == 10
    assert "10 records without an id are equal to an earlier one; their ids are numbered" in capsys.readouterr().err
    kept = read(tmp_path / "clean")
    assert {record["id"] for record in kept} == ids and [record["text"] for record in kept] == TEXTS * 4
    assert [record["id"] for record in kept][:4] == [tiger, river, f"{tiger}-000002", f"{tiger}-000003"]
    passed = decontaminate_files([tmp_path / "x.jsonl"], [tmp_path / "questions.jsonl"], tmp_path / "out")
    assert passed["counts"]["out"] == 12 and {record["id"] for record in read(tmp_path / "out")} == ids
    assert [record["id"] for record in read(tmp_path / "out")] == sorted(ids)
    assert {record["id"] for record in records.documents(tmp_path / "x.jsonl")} == ids


def test_a_part_is_opened_once_however_many_of_its_records_are_repeated(tmp_path, monkeypatch):
    opened = []

    class Counted(parts.PartIds):
        def __init__(self, work, number):
            opened.append(number)
            super().__init__(work, number)

    jsonl.write_jsonl(tmp_path / "x.jsonl", ({"text": f"number {n % 50} here"} for n in range(3000)))
    monkeypatch.setattr(parts, "PartIds", Counted)
    made = clean_files([tmp_path / "x.jsonl"], tmp_path / "out")
    assert made["figures"]["numbered"] == 2950
    assert len(opened) <= 16 + 1  # once for each shard of hashes, and once for the names


def test_numbering_many_equal_records_takes_linear_time():
    def number(count):
        seen, own = records.SeenIds(), records.Identity("a", True)
        names = {seen.take(f"x.jsonl:{n}", own) for n in range(count)}
        assert len(names) == count and seen.counts.get("numbered", 0) == count - 1

    assert_linear(number, 20_000)


@pytest.mark.parametrize("stage", ["clean", "exact"])
def test_ids_that_are_numbered_per_shard_get_the_name_of_their_file(tmp_path, capsys, stage):
    files, out = shards(tmp_path), tmp_path / "out"
    made = clean_files(files, out) if stage == "clean" else dedup_files("exact", files, out)
    assert made["counts"]["out"] == 4
    for name, given in PER_SHARD.items():
        assert {r["id"]: r["text"] for r in read(out, name)} == {f"{name}:{g['id']}": g["text"] for g in given}
    said = capsys.readouterr().err
    assert "2 ids are given in more than one file, such as '0' at " in said and "FILE:ID" in said and "--ids" in said


def test_readers_name_what_comes_from_a_later_file_by_that_file(tmp_path, capsys):
    assert [r["id"] for r in records.documents(shards(tmp_path))] == ["0", "1", "part-1.jsonl:0", "part-1.jsonl:1"]
    assert "2 records have the id of a record in another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        ("place", {"part-0.jsonl:1", "part-0.jsonl:2"}),
        ("content", {records.record_id(record) for record in PER_SHARD["part-0.jsonl"]}),
    ],
)
def test_the_option_makes_ids_by_place_or_by_content(tmp_path, ids, wanted):
    files = [str(path) for path in shards(tmp_path)]
    command = ["data", "clean", "--input", *files, "--out", str(tmp_path / "out"), "--ids", ids]
    assert main(command) == 0
    assert {r["id"] for r in read(tmp_path / "out", "part-0.jsonl")} == wanted
    assert len({r["id"] for name in PER_SHARD for r in read(tmp_path / "out", name)}) == 4


def test_ids_that_one_file_gives_twice_are_an_error_that_names_the_option(tmp_path, capsys):
    jsonl.write_jsonl(tmp_path / "x.jsonl", [{"id": "a", "text": "One."}, {"id": "a", "text": "Two."}])
    for command in (["clean"], ["dedup", "exact"]):
        line = ["data", *command, "--input", str(tmp_path / "x.jsonl"), "--out", str(tmp_path / "out")]
        assert main(line) == 3
        said = capsys.readouterr().err
        assert "x.jsonl:2: id 'a' occurs a second time; the first is at" in said and "--ids place" in said
        assert not (tmp_path / "out").exists()
        assert main([*line[:-1], str(tmp_path / "-".join(command)), "--ids", "place"]) == 0
        capsys.readouterr()


def test_keep_refuses_ids_that_two_files_give(tmp_path):
    given = records.Inputs(shards(tmp_path), "keep")
    for refused in (lambda: clean_files(given, tmp_path / "out"), lambda: list(records.documents(given))):
        with pytest.raises(DataError, match=r"part-1\.jsonl:1: id '0' occurs a second time; .*part-0\.jsonl:1"):
            refused()


def test_a_raw_copy_of_a_cleaned_record_is_numbered_and_the_given_id_stays(tmp_path):
    made = records.record_id({"text": TEXTS[0]})
    jsonl.write_jsonl(tmp_path / "raw.jsonl", [{"text": TEXTS[0]}])
    jsonl.write_jsonl(tmp_path / "clean.jsonl", [{"id": made, "text": TEXTS[0], "n": 1}])
    clean_files([tmp_path / "raw.jsonl", tmp_path / "clean.jsonl"], tmp_path / "out")
    assert read(tmp_path / "out", "clean.jsonl")[0]["id"] == made
    assert read(tmp_path / "out", "raw.jsonl")[0]["id"] == f"{made}-000002"


def test_a_tokenizer_draws_a_record_of_id_0_by_its_id(tmp_path):
    from tigerjax.tokenizer.sample import read_documents

    jsonl.write_jsonl(tmp_path / "x.jsonl", [{"id": 0, "text": "a"}])
    assert [identity for identity, *_ in read_documents(tmp_path / "x.jsonl")] == ["0"]


def test_the_ids_of_a_million_documents_need_few_bytes_each():
    """A hundred thousand here: the table doubles, so the bytes of each stay between these."""
    seen, count = SeenIds(), 100_000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            seen.take(f"a.jsonl:{n + 1}", Identity(f"a-long-id-of-a-document-{n:09d}", False))
        used = (tracemalloc.get_traced_memory()[0] - before) / count
    finally:
        tracemalloc.stop()
    assert 24 < used < 80
    with pytest.raises(DataError, match=r"occurs a second time; the first is at a\.jsonl:78"):
        seen.take("a.jsonl:100001", Identity("a-long-id-of-a-document-000000077", False))
    assert seen.take("b.jsonl:1", Identity("a-long-id-of-a-document-000000077", False)).startswith("b.jsonl:")
