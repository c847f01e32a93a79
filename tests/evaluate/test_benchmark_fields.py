"""Fields of the wrong type, in every place of every file of the thirteen: read, or one line with file and field."""

import copy
import csv
import json

import pytest
from thirteen import RENAMED, write_all, write_others

from tigerjax.errors import DataError
from tigerjax.evaluate.benchmarks import BENCHMARKS
from tigerjax.evaluate.items import csv_rows

WRONG = [None, True, 0, 7, -1, 1.5, 10**30, float("nan"), "", "x", "\ud800", [], [None], ["a", 1], {}, {"a": 1}]
CELLS = ["", "x", "E", "1", "-1", "九", "\x00", '"', "a,b", "9" * 5000]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("thirteen")
    write_all(folder)
    return folder


def places(value, at=()):
    """The way to every value inside a JSON value."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*at, key))


def changed(value, at, new):
    """A copy with `new` at a place."""
    if not at:
        return new
    out = copy.deepcopy(value)
    inner = out
    for key in at[:-1]:
        inner = inner[key]
    inner[at[-1]] = new
    return out


def bad_texts(path):
    """The file's text with one thing wrong, again and again."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    if path.suffix == ".lst":
        yield from ("\n".join([cell, *lines[1:]]) for cell in [*CELLS, "１", "1 1"])
    elif path.suffix == ".csv":
        rows = list(csv.reader(lines))
        for row in (0, 1):
            for column in range(len(rows[row])):
                for cell in CELLS:
                    table = changed(rows, (row, column), cell)
                    yield "\n".join(",".join(cells) for cells in table)
            yield "\n".join(",".join(cells) for cells in changed(rows, (row,), rows[row][:-1]))
    else:
        one = path.suffix == ".json" and len(lines) == 1
        value = json.loads(text) if one else json.loads(lines[0])
        rest = [] if one else lines[1:]
        for at in places(value):
            if len([n for n in at if isinstance(n, int) and n > 1]) == 0:
                for new in WRONG:
                    yield "\n".join([json.dumps(changed(value, at, new)), *rest])
    yield "[" * 100_000
    yield "\n".join(lines[:1])[:-3]


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    folder = tmp_path_factory.mktemp("others")
    write_others(folder)
    return folder


def test_every_layout_holds_the_same_questions(data, others):
    """But for C3, of which one file stands for two, and the names of C-Eval's subjects."""
    for name in ("mmlu", "humaneval", "hellaswag", "winogrande", "cmrc", "ocnli", "boolq"):
        one, other = (list(BENCHMARKS[name].read(folder / name)) for folder in (data, others))
        key = [sorted((i.group, i.prompt, i.options, str(i.gold)) for i in items) for items in (one, other)]
        assert key[0] == key[1] and key[0], name
    assert "法律" in list(BENCHMARKS["ceval"].read(others / "ceval"))[-1].options[0].user


LAYOUTS = [("published", name) for name, b in BENCHMARKS.items() if b.counted]
LAYOUTS += [("other", name) for name in [*RENAMED, "boolq", "mmlu", "ceval", "cmmlu"]]


@pytest.mark.parametrize(("layout", "name"), LAYOUTS)
def test_a_field_of_the_wrong_type_is_one_line_with_its_file(data, others, layout, name):
    data = others if layout == "other" else data
    read, refused = BENCHMARKS[name].read, 0
    for path in sorted(p for p in (data / name).rglob("*") if p.is_file()):
        good = path.read_bytes()
        try:
            for text in bad_texts(path):
                path.write_bytes(text.encode("utf-8", "surrogatepass"))
                try:
                    for item in read(data / name):
                        assert all(t.encode() is not None for t in (item.prompt, *(t for o in item.options for t in o)))
                except DataError as error:
                    refused += 1
                    assert str(data / name) in str(error) and "\n" not in str(error) and len(str(error)) < 600
        finally:
            path.write_bytes(good)
    assert refused > 10
    assert list(read(data / name))


@pytest.mark.parametrize(
    ("name", "file", "record", "message"),
    [
        (
            "hellaswag",
            "hellaswag_val.jsonl",
            {"ctx": "A", "endings": "b", "label": 0},
            "endings is a text ('b'), needs a list",
        ),
        (
            "hellaswag",
            "hellaswag_val.jsonl",
            {"ctx": 3, "endings": ["b"], "label": 0},
            "ctx is a whole number (3), needs a text",
        ),
        (
            "hellaswag",
            "hellaswag_val.jsonl",
            {"ctx": "A", "endings": ["b"], "label": True},
            "label True is not a whole",
        ),
        (
            "boolq",
            "dev.jsonl",
            {"passage": ["p"], "question": "q", "answer": True},
            "passage is a list (['p']), needs a text",
        ),
    ],
)
def test_the_message_names_line_field_and_what_is_needed(tmp_path, name, file, record, message):
    (tmp_path / file).write_text(json.dumps(record) + "\n")
    with pytest.raises(DataError) as raised:
        list(BENCHMARKS[name].read(tmp_path))
    assert f"{file}:1: {message}" in str(raised.value)


def test_a_row_of_several_lines_is_named_by_its_first(tmp_path):
    for row, says in (("2,one", "ends before its columns C"), ("2,one,two,three", "4 columns, needs 3")):
        (tmp_path / "a.csv").write_text(f'A,B,C\n1,"one\nand more",two\n\n"2\n",{row.partition(",")[2]}\n')
        with pytest.raises(DataError, match=rf"a\.csv:5: .*{says}"):
            list(csv_rows(tmp_path / "a.csv"))
