"""A number of 10,000 digits in any JSON that is read is one line in our own words."""

import json
import struct

import pytest

from tigerjax import records
from tigerjax.align.people import label_lines
from tigerjax.checkpoint import meta
from tigerjax.convert.tensors import open_folder
from tigerjax.errors import DataError
from tigerjax.evaluate import items
from tigerjax.files import foreign, jsonl
from tigerjax.records import dialogue
from tigerjax.tokenizer import added

HUGE = '{"a": %s}' % ("9" * 10_000)
OURS = "a number has more than 4,300 digits"


def written(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def every_record(path):
    return [record for block in records.blocks([path]) for _, record, _ in records.read_block(block)]


def tensors(path):
    header = HUGE.encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return open_folder(path.parent)


READERS = {
    "a.jsonl": lambda path: every_record(written(path, HUGE + "\n")),
    "a.json": lambda path: every_record(written(path, f"[{HUGE}, " + '{"text": "x"},' * 9)),
    "table.csv": lambda path: dialogue.listed(f'[{{"role": "user", "n": {"9" * 10_000}}}]', str(path)),
    "config.json": lambda path: foreign.read_object(written(path, HUGE), "correct it"),
    "benchmark.json": lambda path: items.json_file(written(path, HUGE)),
    "labels.jsonl": lambda path: label_lines.parse(HUGE.encode()),
    "stage.jsonl": lambda path: list(jsonl.read_jsonl(written(path, HUGE))),
    "meta.json": lambda path: meta.read(written(path, HUGE)),
    "model.safetensors": tensors,
}


@pytest.mark.parametrize("name", READERS)
def test_a_number_of_too_many_digits_is_told_without_python_s_own_advice(tmp_path, name):
    with pytest.raises((DataError, label_lines.BadLine)) as caught:
        READERS[name](tmp_path / name)
    said = str(caught.value)
    assert OURS in said and "set_int_max_str_digits" not in said and "\n" not in said and len(said) < 500


@pytest.mark.parametrize("read", [foreign.loads, lambda text: foreign.raw_decode(text, 0)], ids=["whole", "a part"])
def test_json_that_is_nested_too_deep_is_told_in_our_words_too(read):
    with pytest.raises(RecursionError, match=r"^lists or objects lie too deep in each other$"):
        read("[" * 200_000)


def test_a_list_with_such_a_number_is_not_read_to_its_end_for_it(tmp_path):
    path = written(tmp_path / "a.json", f"[{HUGE}, " + '{"text": "x"},' * 200_000)
    with pytest.raises(DataError, match=rf"a\.json:1: .*{OURS}"):
        records_of = records.Files([path], records.Reading(max_bytes=1_500_000))
        list(records.read_block(records.blocks(records_of)[0]))


def test_a_key_of_too_many_digits_is_no_id(tmp_path):
    written(tmp_path / added.CONFIG_FILE, json.dumps({"added_tokens_decoder": {"9" * 10_000: {"content": "<x>"}}}))
    with pytest.raises(DataError, match=r"added token '<x>' has id '9{20,}.*, needs a text and a number from 0"):
        added.added_tokens(tmp_path, 5)
