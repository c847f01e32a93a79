"""Values that JSON and Arrow can hold and a program does not expect: refused by file and line, or left as they are."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from file_formats import GIVEN, save_dataset, save_stream

from tigerjax import records
from tigerjax.align import reward_data
from tigerjax.errors import DataError
from tigerjax.stages.parts import quality_of
from tigerjax.text.clean import clean_files

HUGE = [10**400, -(10**400), True, "7", [1]]
SFT = {"instruction": "Where?", "output": "Here."}
PAIR = {"prompt": "Where?", "chosen": "Here.", "rejected": "There."}
RATED = {"instruction": "A?", "completions": [{"response": "B.", "overall_score": 9}, {"response": "C."}]}


def jsonl(path, *given):
    path.write_text("".join(json.dumps(record) + "\n" for record in given))
    return path


@pytest.mark.parametrize("value", [*HUGE, 1e300])
def test_a_weight_beyond_all_floats_or_all_sense_is_refused_by_its_line(tmp_path, value):
    wrong = r"in\.jsonl:1: .*must be a number that is not negative, and at most 1,000,000"
    with pytest.raises(DataError, match=wrong):
        list(records.sft_examples(jsonl(tmp_path / "in.jsonl", SFT | {"weight": value})))
    for name in ("strength", "margin"):
        with pytest.raises(DataError, match=wrong.replace(": .*", f": {name} .*")):
            reward_data.read([jsonl(tmp_path / "in.jsonl", PAIR | {name: value})])


@pytest.mark.parametrize("value", HUGE)
def test_a_score_or_quality_that_is_no_finite_number_is_refused_or_counts_as_none(tmp_path, value):
    RATED["completions"][1]["overall_score"] = value
    with pytest.raises(DataError, match="completion 2 must be"):
        reward_data.read([jsonl(tmp_path / "in.jsonl", RATED)])
    assert quality_of({"meta": {"quality": value}}) == quality_of({"meta": {"quality": float("nan")}}) == 0.0
    assert quality_of({"meta": {"quality": 3}}) == 3.0


NO_JSON = {
    "NaN is no number of JSON": '{"id": "x", "text": "a", "meta": {"quality": NaN}}',
    "Infinity is no number of JSON": '{"id": "x", "text": "a", "meta": [Infinity, 1]}',
    "-Infinity is no number of JSON": '{"text": "a", "id": "x", "score": -Infinity}',
    "the number 1e999 is too large": '{"text": "a", "id": "x", "score": 1e999}',
    "field 'text' is given twice": '{"id": "x", "text": "a", "text": "b"}',
    "field 'quality' is given twice": '{"id": "x", "text": "a", "meta": {"quality": 1, "quality": 1}}',
}


@pytest.mark.parametrize("name", ["in.jsonl", "in.json", "in.txt"])
@pytest.mark.parametrize(("why", "record"), NO_JSON.items(), ids=NO_JSON)
def test_what_only_python_takes_for_json_is_refused_by_file_line_and_id(tmp_path, name, why, record):
    good = '{"id": "y", "text": "b", "meta": {"quality": 1e30, "text": "NaN"}}'
    (tmp_path / name).write_text(f"[{record},\n{good}]" if name == "in.json" else f"{record}\n{good}\n")
    refused = rf"{name}:1: id 'x': broken JSON: {why}; correct or remove the record"
    with pytest.raises(DataError, match=refused):
        list(records.documents(tmp_path / name))
    bad = []
    read = records.documents(tmp_path / name, on_bad=lambda error, line: bad.append(str(error)))
    assert [one["id"] for one in read] == ["y"] and len(bad) == 1
    with pytest.raises(DataError, match=refused):
        clean_files([tmp_path / name], tmp_path / "out")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["in.parquet", "in.arrow"])
def test_a_number_that_no_json_holds_is_refused_in_a_table_too(tmp_path, name, value):
    given = [{"id": "x", "text": "a", "meta": {"q": [1.0]}}, {"id": "y", "text": "b", "meta": {"q": [value]}}]
    if name == "in.arrow":
        save_stream(tmp_path / name, given)
    else:
        pq.write_table(pa.Table.from_pylist(given), tmp_path / name)
    with pytest.raises(DataError, match=rf"{name}:2: id 'y', field 'meta': {value} is no number of JSON; correct the"):
        list(records.documents(tmp_path / name))


def test_an_id_that_pandas_left_out_as_nan_is_none(tmp_path):
    pq.write_table(pa.table({"id": [1.0, float("nan")], "text": ["a", "b"]}), tmp_path / "in.parquet")
    first, second = records.documents(tmp_path / "in.parquet")
    assert first["id"] == "1" and len(second["id"]) == 32


@pytest.mark.parametrize("name", ["in.jsonl", "in.json"])
@pytest.mark.parametrize("depth", [150, 300, 600, 950, 3000, 100_000])
def test_records_are_as_deep_as_they_can_be_written_again(tmp_path, name, depth):
    """Python's own limit differs between its versions, and between reading and writing."""
    text = '{"text": "a", "meta": ' + "[" * depth + "]" * depth + "}"
    (tmp_path / name).write_text(f"[{text}]" if name == "in.json" else text)
    if depth == 150:
        assert records.record_id(next(records.documents(tmp_path / name)))
    else:
        with pytest.raises(DataError, match=rf"{name}:1: .*(too deep|broken or missing)"):
            list(records.documents(tmp_path / name))


def test_an_arrow_column_that_points_outside_of_its_bytes_is_damage_and_no_crash(tmp_path):
    good = pa.array(["老虎", "b", "c"])
    offsets = pa.array([0, 6, 900_000_000, 7], pa.int32()).buffers()[1]
    wild = pa.Array.from_buffers(pa.string(), 3, [None, offsets, good.buffers()[2]])
    nested = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), wild)
    for n, column in enumerate((wild, nested)):
        path = tmp_path / f"{n}.arrow"
        table = pa.table({"id": ["x", "y", "z"], "text": column})
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(DataError, match=rf"{n}\.arrow:1: this row or a later one of the Arrow file is damaged"):
            list(records.read(path))


def test_a_date_that_python_has_not_is_named_by_its_row(tmp_path):
    dates = pa.array([0, 2**40, 0]).cast(pa.timestamp("s"))
    save_stream(tmp_path / "a.arrow", GIVEN[:3])
    table = pa.table({"text": ["a", "b", "c"], "when": dates})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"a\.arrow:2: a value cannot be read"):
        list(records.read(tmp_path / "a.arrow"))


def test_a_column_that_stands_twice_in_a_csv_is_refused_and_loses_nothing_silently(tmp_path):
    (tmp_path / "a.csv").write_text("text,lang,text\nfirst,en,second\n")
    with pytest.raises(DataError, match=r"a\.csv:1: column 'text' stands twice"):
        list(records.read(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    "state",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"_data_files": 7}',
        b'{"_data_files": [{"filename": 7}]}',
        b'{"_data_files": [{"filename": "../other.arrow"}]}',
        b'{"_data_files": [{"filename": "/etc/passwd"}]}',
    ],
)
def test_a_datasets_folder_names_arrow_files_of_its_own_or_is_refused(tmp_path, state):
    save_dataset(tmp_path / "saved", GIVEN)
    save_stream(tmp_path / "other.arrow", GIVEN)
    (tmp_path / "saved/state.json").write_bytes(state)
    with pytest.raises(DataError, match=r"state\.json.*save the dataset again"):
        list(records.read(tmp_path / "saved"))
