"""Folders that other programs wrote, and damaged ones: every field has its type and range, every form its message."""

import json
import random
import re
import struct

import numpy as np
import pytest
from test_hf import CONFIG, Q1, edit_config, random_weights

from tigerjax.convert import hf, read
from tigerjax.errors import ConfigError, DataError, TigerjaxError
from tigerjax.model import families, hf_config

NUMBERS = [
    "num_hidden_layers",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
    "rope_theta",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
]
WRONG = ["32", True, [], [[1]], {"a": 1}, -7, 10**400, float("inf"), float("-inf"), float("nan"), 1e9 + 0.5]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("foreign") / "hf"
    hf.to_hf(random_weights(), CONFIG, folder, hf.Export(tokenizer=None))
    return folder


@pytest.fixture
def folder(whole, tmp_path):
    (tmp_path / "hf").mkdir()
    for file in whole.iterdir():
        (tmp_path / "hf" / file.name).write_bytes(file.read_bytes())
    return tmp_path / "hf"


@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_of_a_foreign_config_has_a_type_and_a_range(folder, name):
    wrong = [*WRONG, 0] if name not in ("bos_token_id", "eos_token_id", "pad_token_id") else WRONG[:2] + WRONG[3:]
    for value in wrong:
        if (name.endswith("_id") and value == []) or (name == "rope_theta" and value == 1e9 + 0.5):
            continue  # no id at all, and a base that is large
        edit_config(folder, **{name: value})
        with pytest.raises(DataError, match=rf"config\.json: {name}=.*, needs ") as error:
            families.read_hf_config(folder)
        assert "\n" not in str(error.value) and len(str(error.value)) < 400


def write_generation(folder, **fields):
    (folder / "generation_config.json").write_text(json.dumps(fields))


@pytest.mark.parametrize("name", hf_config.TOKEN_IDS)
def test_a_token_id_that_the_vocabulary_lacks_is_refused_by_name_and_value(folder, name):
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    edit_config(folder, **{name: rows - 1})
    families.read_hf_config(folder)
    for value in (rows, [1, rows], 2**31):
        shown = re.escape(f"{name}={value}, needs null, a token id from 0 to {rows - 1}, or a list")
        edit_config(folder, **{name: value})
        with pytest.raises(DataError, match=rf"/config\.json: {shown}"):
            families.read_hf_config(folder)
        edit_config(folder, **{name: 0})
        write_generation(folder, **{name: value})
        with pytest.raises(DataError, match=rf"generation_config\.json: {shown}"):
            families.read_hf_config(folder)
        write_generation(folder)


@pytest.mark.parametrize("name", [*hf_config.MORE_IDS, *hf_config.LISTS_OF_IDS])
def test_every_id_that_generation_config_passes_on_is_of_the_vocabulary(folder, name):
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    for last in (rows - 1, rows):
        value = {"decoder_start_token_id": last, "bad_words_ids": [[3], [4, last]], "force_words_ids": [[[3], [last]]]}
        write_generation(folder, **{name: value.get(name, [last])})
        if last < rows:
            families.read_hf_config(folder)
        else:
            with pytest.raises(DataError, match=rf"generation_config\.json: {name}="):
                families.read_hf_config(folder)


def test_an_id_of_a_row_that_is_padding_is_refused_too(folder):
    opened = read.open_hf(folder)
    rows = opened.spec[0].shape[0]
    edit_config(folder, pad_token_id=rows - 2)
    write_generation(folder, suppress_tokens=[4, rows - 1])
    with pytest.raises(DataError, match=rf"/config\.json: pad_token_id={rows - 2}, needs null, .* 0 to {rows - 3}"):
        read.sized(read.open_hf(folder), rows - 2)
    with pytest.raises(DataError, match=rf"generation_config\.json: suppress_tokens=\[4, {rows - 1}\], needs"):
        read.sized(read.open_hf(folder), rows - 1)
    read.sized(read.open_hf(folder), rows)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no'"),
        ({"attention_bias": 0}, "attention_bias=0"),
        ({"hidden_act": ["silu"]}, "hidden_act="),
        ({"rope_scaling": "linear"}, "rope_scaling='linear'"),
        ({"rope_parameters": [1]}, "rope_parameters="),
        ({"rope_parameters": {"rope_theta": float("nan")}}, r"rope_parameters\.rope_theta=nan"),
        ({"rope_scaling": {"type": 7}}, r"rope_scaling\.type=7"),
        ({"architectures": "LlamaForCausalLM"}, "architectures="),
        ({"architectures": [7]}, "architectures="),
        ({"model_type": 7}, "model_type=7"),
        ({"id2label": [], "architectures": ["LlamaForSequenceClassification"]}, "id2label="),
        ({"quantization_config": "int8"}, "quantization_config="),
        ({"tigerjax": 5}, "tigerjax=5"),
        ({"tigerjax": {"vocab_size": "31"}}, r"tigerjax\.vocab_size='31'"),
        ({"tigerjax": {"vocab_size": 31, "padded_vocab_size": 10**12}}, r"tigerjax\.padded_vocab_size="),
        ({"tigerjax": {"extra": 5}}, r"tigerjax\.extra=5"),
        ({"num_hidden_layers": "absent"}, "lacks num_hidden_layers"),
        ({"hidden_size": 13, "head_dim": "absent"}, "hidden_size=13 is no multiple"),
    ],
)
def test_every_other_field_has_a_type(folder, change, named):
    edit_config(folder, **change)
    with pytest.raises(DataError, match=named):
        families.read_hf_config(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1]", "needs a JSON object"),
        (b"null", "needs a JSON object"),
        (b"", "not JSON"),
        (b"\xff\xfe{}", "invalid UTF-8"),
        (b'{"a": ' * 100_000, "too deep"),
        (b'{"num_hidden_layers": ' + b"9" * 5000 + b"}", "digits"),
        (b'{"model_type": "\\ud800"}', "half of a surrogate pair"),
    ],
)
def test_a_config_that_is_no_json_object_is_one_line(folder, content, message):
    for name in ("config.json", "generation_config.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as error:
            families.read_hf_config(folder)
        assert name in str(error.value) and "\n" not in str(error.value)
        (folder / name).write_bytes(before)


def test_a_byte_order_mark_of_a_windows_editor_is_passed_over(folder):
    path = folder / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert hf.from_hf(folder)[0] == CONFIG


@pytest.mark.parametrize("layers", [4, 10**4, 10**4 + 1, 10**6, 2**31 - 1])
def test_more_layers_than_there_are_tensors_are_refused_before_anything_is_made_of_them(folder, layers):
    edit_config(folder, num_hidden_layers=layers)
    why = "but the tensors are of 3 layers" if layers <= 10**4 else "needs a whole number from 1 to 10000"
    with pytest.raises(DataError, match=rf"(its config says|config\.json:) num_hidden_layers={layers}, {why}"):
        hf.from_hf(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_key_value_heads": 4}, "num_heads=6 is no multiple of num_kv_heads=4"),
        ({"head_dim": 3}, "head_dim=3 is odd"),
        ({"rms_norm_eps": 1e-20}, "norm_eps=1e-20 must be at least 1e-12"),
    ],
)
def test_a_config_that_no_model_can_have_is_named_with_its_file(folder, change, message):
    edit_config(folder, **change)
    with pytest.raises(DataError, match=rf"config\.json: .*{message}"):
        families.read_hf_config(folder)


@pytest.mark.parametrize("kind", ["longrope", "proportional", "mrope", "new"])
def test_an_unknown_kind_of_rope_is_refused_with_the_known_ones(folder, kind):
    for name in ("rope_scaling", "rope_parameters"):
        edit_config(folder, rope_scaling="absent", rope_parameters="absent")
        edit_config(folder, **{name: {"rope_type": kind, "factor": 2.0}})
        with pytest.raises(ConfigError, match=f"{name} '{kind}'.*known are default, linear, dynamic, yarn, llama3"):
            hf.from_hf(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_type": "dynamic"}, r"lacks rope_scaling\.factor"),
        ({"rope_type": "linear", "factor": "8"}, r"rope_scaling\.factor='8'"),
        ({"rope_type": "linear", "factor": 0.5}, r"model\.rope\.factor=0\.5 must be at least 1"),
        ({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}, r"lacks rope_scaling\.high_freq_factor"),
        (
            {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0},
            r"high_freq_factor=4\.0 must be more than low_freq_factor=4\.0",
        ),
        (
            {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 0},
            r"original_max_position_embed.*=0",
        ),
        ({"rope_type": "yarn", "factor": 8.0, "beta_fast": 1, "beta_slow": 2}, r"beta_fast=1\.0 must be more than"),
    ],
)
def test_a_wrong_number_of_a_rope_is_named_with_its_file(folder, change, message):
    edit_config(folder, rope_scaling=change)
    with pytest.raises(DataError, match=rf"config\.json: .*{message}"):
        families.read_hf_config(folder)


def test_two_places_that_say_different_ropes_are_refused(folder):
    yarn = {"rope_type": "yarn", "factor": 8.0}
    edit_config(folder, rope_scaling=yarn, rope_parameters=yarn | {"factor": 4.0})
    with pytest.raises(DataError, match="rope_scaling says kind yarn and rope_parameters kind yarn"):
        families.read_hf_config(folder)
    edit_config(folder, rope_parameters=yarn)
    assert families.read_hf_config(folder).config.rope.factor == 8.0


@pytest.mark.parametrize(
    "change", [{"partial_rotary_factor": 0.5}, {"rope_parameters": {"partial_rotary_factor": 0.5}}]
)
def test_half_rotated_heads_are_refused_by_name(folder, change):
    edit_config(folder, **change)
    with pytest.raises(ConfigError, match=r"partial_rotary_factor=0\.5"):
        hf.from_hf(folder)


def test_a_quantization_config_beside_plain_tensors_is_refused_by_name(folder):
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ConfigError, match=r"quantization_config \(bitsandbytes; .* remove that key\)"):
        hf.from_hf(folder)
    edit_config(folder, quantization_config=None)
    assert hf.from_hf(folder)[0] == CONFIG


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "LoRA adapter is no model; .* merges it into the model"),
        (["adapter_model.bin"], "LoRA adapter"),
        (["params.json", "tokenizer.model"], r"consolidated\.\*\.pth files of Meta's form are not beside it"),
        (["consolidated.safetensors", "params.json"], "Mistral's own form"),
        (["llama-7b.Q4_K_M.gguf"], "llama.cpp's form is not read"),
        (["zero_to_fp32.py", "latest"], "run its zero_to_fp32.py first"),
        (["__0_0.distcp"], "distributed PyTorch checkpoint"),
        (["checkpoints"], "a run of tigerjax"),
        (["snapshots", "refs"], "the folder below snapshots/"),
        (["notes.txt"], r"config\.json: not there"),
    ],
)
def test_a_model_in_another_form_is_told_what_to_do(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(TigerjaxError, match=message):
        hf.from_hf(tmp_path)


def test_a_file_and_an_interrupted_export_are_told_what_to_do(folder):
    with pytest.raises(ConfigError, match="is a file; give the folder"):
        hf.from_hf(folder / "model.safetensors")
    (folder / "progress.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="an export that was interrupted; give the same `tigerjax convert to-hf` again"):
        hf.from_hf(folder)


@pytest.mark.parametrize("wrap", ["module.{}", "base_model.model.{}"])
def test_tensors_of_a_wrapped_model_are_told_apart_from_missing_ones(folder, wrap):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    text = json.dumps({wrap.format(name): entry for name, entry in header.items()}).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    with pytest.raises(DataError, match=rf"other names than this model's: there is {wrap.format('')}.* not wrapped"):
        hf.from_hf(folder)


def test_a_float64_that_float32_cannot_hold_is_one_line(folder, recwarn):
    path = folder / "model.safetensors"
    name, value = "model.norm.weight", np.full(CONFIG.model_dim, 1e300)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    header.pop("__metadata__", None)
    parts = {n: body[slice(*e["data_offsets"])] for n, e in header.items()} | {name: value.tobytes()}
    header[name]["dtype"], end = "F64", 0
    for one, part in parts.items():
        header[one]["data_offsets"] = [end, end := end + len(part)]
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts.values()))
    with pytest.raises(DataError, match=r"model.norm.weight holds a value that is not finite"):
        hf.from_hf(folder)
    assert not recwarn.list


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", 7, None, ["a"], "a\x1b[2J"])
def test_an_index_names_files_of_its_own_folder_only(folder, name):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {Q1: name}}))
    with pytest.raises(DataError, match=r"index\.json: ") as error:
        hf.from_hf(folder)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "model.safetensors"])
def test_a_flipped_or_cut_file_is_refused_or_read_without_a_traceback(folder, name):
    """Flips in the header only: what the bytes of a weight should be nobody can know."""
    path, rng = folder / name, random.Random(1)
    whole = path.read_bytes()
    header = min(len(whole), 3000)
    for n in range(60):
        damaged = bytearray(whole)
        if n % 4:
            damaged[rng.randrange(header)] ^= 1 << rng.randrange(8)
        else:
            del damaged[rng.randrange(len(whole)) :]
        path.write_bytes(damaged)
        try:
            hf.from_hf(folder)
        except (ConfigError, DataError) as error:
            assert "\n" not in str(error)
