"""Damaged files of safetensors, and an export's folder: one line, and nothing of the user's is lost."""

import json
import struct

import numpy as np
import pytest
from test_hf import CONFIG, Q1, random_weights

from tigerjax.convert import hf
from tigerjax.convert.tensors import Safetensors
from tigerjax.errors import ConfigError, DataError, TigerjaxError

ENTRY = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    "header",
    [
        {"a": ENTRY | {"shape": [2.0, 3.0]}},
        {"a": ENTRY | {"shape": [2, 3.5]}},
        {"a": ENTRY | {"shape": [True, 6]}},
        {"a": ENTRY | {"shape": [-2, -3]}},
        {"a": ENTRY | {"shape": "23"}},
        {"a": ENTRY | {"shape": None}},
        {"a": ENTRY | {"shape": [[2], 3]}},
        {"a": ENTRY | {"shape": [1] * 5000 + [6]}},
        {"a": ENTRY | {"data_offsets": [0.0, 24.0]}},
        {"a": ENTRY | {"data_offsets": [0, 1e30]}},
        {"a": ENTRY | {"data_offsets": [24, 0]}},
        {"a": ENTRY | {"data_offsets": [0, 24, 48]}},
        {"a": ENTRY | {"data_offsets": {"0": 24}}},
        {"a": ENTRY | {"dtype": 32}},
        {"a": ENTRY | {"dtype": ["F32"]}},
        {"a": ENTRY | {"dtype": "\x1b[31mF32"}},
        {"a": [2, 3]},
        {"a": None},
        {"\x1b[2J": ENTRY},
        {"a" * 100_000: ENTRY},
        {"a": ENTRY | {"data_offsets": [0, 10**4000]}},
        [ENTRY],
        "text",
        7,
    ],
)
def test_a_safetensors_header_with_other_types_is_one_line(tmp_path, header):
    text = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(24))
    with pytest.raises(DataError, match="not a whole safetensors file") as error:
        Safetensors([tmp_path / "model.safetensors"])
    assert str(error.value).isprintable() and len(str(error.value)) < 400


@pytest.mark.parametrize("text", [b'{"a": ' * 50_000, b"[" * 200_000, b"9" * 5000, b"\xff\xff", b"{}extra"])
def test_a_safetensors_header_that_no_parser_takes_is_one_line(tmp_path, text):
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(DataError, match="not a whole safetensors file"):
        Safetensors([tmp_path / "model.safetensors"])


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(DataError, match="git lfs pull"):
        Safetensors([tmp_path / "model.safetensors"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.gguf", "model.gguf: llama.cpp's form is not read"),
        ("model-00001-of-00002.gguf", "llama.cpp's form is not read"),
        ("consolidated.safetensors", "Mistral's own form"),
        ("consolidated.00.pth", "beside its params.json without a config.json"),
        ("model.pth", "read as pytorch_model.bin; save"),
        ("model-00002-of-00003.safetensors", r"index\.json: not there, but model-00002-of-00003\.safetensors is; copy"),
        ("pytorch_model-00001-of-00002.bin", r"pytorch_model\.bin\.index\.json: not there, but "),
        ("training_args.bin", r"model\.safetensors: not there; the folder needs"),
    ],
)
def test_weights_of_another_form_beside_a_config_are_told_what_to_do(tmp_path, name, message):
    hf.to_hf(random_weights(), CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))
    (tmp_path / "hf/model.safetensors").rename(tmp_path / "hf" / name)
    with pytest.raises(TigerjaxError, match=message):
        hf.from_hf(tmp_path / "hf")


def test_a_file_in_the_place_of_a_folder_is_told_by_its_form(tmp_path):
    (tmp_path / "whole.gguf").write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"whole\.gguf: llama.cpp's form is not read"):
        hf.from_hf(tmp_path / "whole.gguf")


def test_float16_is_written_and_a_value_that_it_cannot_hold_is_counted(tmp_path):
    weights = random_weights()
    hf.to_hf(weights, CONFIG, tmp_path / "half", hf.Export(tokenizer=None, dtype="float16"))
    assert json.loads((tmp_path / "half/config.json").read_text())["torch_dtype"] == "float16"
    back = hf.from_hf(tmp_path / "half")[1]
    np.testing.assert_array_equal(back["embed"], weights["embed"].astype(np.float16).astype(np.float32))
    weights["layers"]["attn"]["q"][1, 0, 0, :2] = 7e4, -1e6
    with pytest.raises(DataError, match=rf"{Q1}: 2 of 288 values are beyond 65504, .* the largest is 1e\+06"):
        hf.to_hf(weights, CONFIG, tmp_path / "far", hf.Export(tokenizer=None, dtype="float16"))
    assert not list(tmp_path.glob("far*"))


def test_what_lies_where_an_export_would_be_built_is_not_removed(tmp_path):
    (tmp_path / "hf.partial").mkdir()
    (tmp_path / "hf.partial/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"hf\.partial holds something that is not an export that was interrupted"):
        hf.to_hf(random_weights(), CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "linked.partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"linked\.partial holds something"):
        hf.to_hf(random_weights(), CONFIG, tmp_path / "linked", hf.Export(tokenizer=None))
    assert (tmp_path / "hf.partial/thesis.txt").read_text() == "years of work"
    assert not list((tmp_path / "elsewhere").iterdir())
