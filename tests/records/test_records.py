"""Records: every broken line is named by file and line; nothing is silently repaired."""

import json

import pytest

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl

QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


def write(path, *lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines) + b"\n")
    return path


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        ('{"text": "unfinished', "broken JSON: Invalid control character at column 21;"),
        (b'{"text": "\xff"}', "invalid UTF-8 at byte 11"),
        ("[1, 2]", "must be an object"),
        ('{"text": "\\ud800"}', "lone surrogate"),
        ('{"id": "s1", "text": "\\ud800"}', "id 's1': a lone surrogate"),
    ],
)
def test_a_broken_line_is_named_by_file_and_line(tmp_path, bad, says):
    path = write(tmp_path / "x.jsonl", '{"text": "fine"}', "", bad)
    with pytest.raises(DataError, match=says) as error:
        list(records.read(path))
    assert str(error.value).startswith(f"{path}:3: ")
    assert error.value.exit_code == 3


def test_bad_lines_can_be_collected_instead(tmp_path):
    path = write(tmp_path / "x.jsonl", "{", '{"a": 1}', b"\xfe")
    bad = []
    assert list(records.read(path, on_bad=lambda error, line: bad.append((str(error), line)))) == [(2, {"a": 1})]
    assert [line for _, line in bad] == [b"{\n", b"\xfe\n"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.zst"])
def test_what_is_written_is_read_back(tmp_path, name):
    given = [{"text": "天地玄黄\u2028\n", "n": 1}, {"text": "👩‍👩‍👧 \t"}]
    assert jsonl.write_jsonl(tmp_path / name, given) == 2
    assert [record for _, record in jsonl.read_jsonl(tmp_path / name)] == given
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.jsonl"
    jsonl.write_jsonl(path, [{"old": 1}])

    def failing():
        yield {"new": 1}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jsonl.write_jsonl(path, failing())
    assert [record for _, record in jsonl.read_jsonl(path)] == [{"old": 1}]
    assert [p.name for p in tmp_path.iterdir()] == ["x.jsonl"]


def test_a_cut_zst_file_is_bad_data(tmp_path):
    path = tmp_path / "x.jsonl.zst"
    jsonl.write_jsonl(path, ({"n": str(i) * 50} for i in range(5000)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"x\.jsonl\.zst"):
        list(records.read(path))


def test_documents_get_an_id_from_their_content_and_equal_ones_are_numbered(tmp_path):
    one = {"text": "a", "source": "s"}
    path = write(tmp_path / "x.jsonl", json.dumps(one), '{"source": "s", "text": "b"}')
    first, _ = records.documents(path)
    assert first["id"] == records.record_id({"source": "s", "text": "a"})  # the order of the keys does not matter
    again = write(tmp_path / "y.jsonl", json.dumps(one))
    *_, third = records.documents([path, again])
    assert third["id"] == first["id"] + "-000002"


def test_an_id_that_a_file_gives_twice_is_refused_with_both_places(tmp_path):
    path = write(
        tmp_path / "x.jsonl", '{"id": "a", "text": "1"}', '{"id": "b", "text": "2"}', '{"id": "a", "text": "3"}'
    )
    with pytest.raises(DataError, match=r"x\.jsonl:3: id 'a' .* second time; the first is at .*x\.jsonl:1"):
        list(records.documents(path))


def test_alpaca_and_sharegpt_become_messages(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        '{"instruction": "Translate.", "input": "cat", "output": "猫"}',
        '{"instruction": "Translate cat.", "input": "cat", "output": "猫"}',
        '{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}], "lang": "en"}',
    )
    got = [[m["content"] for m in e["messages"]] for e in records.sft_examples(path)]
    assert got == [["Translate.\ncat", "猫"], ["Translate cat.\ncat", "猫"], ["hi", "hello"]]


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"messages": [{"role": "user", "content": "q"}]}, "pairs of user and assistant"),
        ({"messages": [{"role": "assistant", "content": "q"}] * 2}, "pairs of user and assistant"),
        ({"messages": [QUESTION, QUESTION, QUESTION, ANSWER]}, "message 2 .*'assistant' must stand there"),
        ({"messages": [QUESTION, ANSWER, ANSWER, ANSWER]}, "message 3 .*'user' must stand there"),
        ({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": " "}]}, "is empty"),
        ({"instruction": "q", "output": None}, "text is needed"),
        ({"prompt": "q"}, "needs 'messages'"),
        ({"instruction": "q", "output": "a", "weight": -1}, "weight -1"),
    ],
)
def test_a_wrong_sft_example_is_named_by_file_and_line(tmp_path, record, says):
    path = write(tmp_path / "x.jsonl", json.dumps(record))
    with pytest.raises(DataError, match=says) as error:
        list(records.sft_examples(path))
    assert f"{path}:1: " in str(error.value)


def test_a_missing_file_is_bad_data(tmp_path):
    with pytest.raises(DataError, match=r"nothing\*\.jsonl: no such file"):
        records.expand(tmp_path / "nothing*.jsonl")
