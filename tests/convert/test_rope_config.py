"""What config.json says about rotary angles goes in, and out again as it came."""

import dataclasses
import json

import pytest

from tigerjax.config import RopeConfig, dump, stored_fields
from tigerjax.errors import ConfigError
from tigerjax.model import families
from tigerjax.model.hf_config import reach, say_past, source_ids
from tigerjax.model.hf_fields import Fields
from tigerjax.model.hf_rope import scaling, theta
from tigerjax.model.llama.face import FAMILY as llama

SIZES = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 2, "hidden_size": 24,
    "intermediate_size": 28, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 10, "rms_norm_eps": 1e-5,
    "hidden_act": "silu", "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
}  # fmt: skip
SEVEN, THIRTEEN, SEVENTY = (32, 4096, 11008, 32, 32), (40, 5120, 13824, 40, 40), (80, 8192, 28672, 64, 8)
"""Layers, width, width of the MLP, heads, heads of keys."""
FIRST, SECOND = {"vocab_size": 60928, "pad_token_id": 0}, {"vocab_size": 65112, "pad_token_id": 65109}
DYNAMIC = {"type": "dynamic", "factor": 8.0}
TIGERBOT = {  # (sizes, max_position_embeddings, pretraining_tp, what else its config.json says)
    "7b-base v3": (SEVEN, 2048, 4, FIRST),
    "13b-base v1": (THIRTEEN, 2048, 8, FIRST),
    "13b-base v2": (THIRTEEN, 2048, 8, FIRST),
    "13b-chat v1": (THIRTEEN, 2048, 8, FIRST),
    "13b-chat v4": (THIRTEEN, 2048, 1, {"vocab_size": 60515, "pad_token_id": 60514, "rope_scaling": DYNAMIC}),
    "70b-base v1": (SEVENTY, 2048, 8, FIRST),
    "70b-base v2": (SEVENTY, 2048, 1, SECOND | {"rope_theta": 10000, "rope_scaling": None}),
    "13b-chat v5": (THIRTEEN, 2048, 1, SECOND | {"rope_theta": 10000, "rope_scaling": None}),
    "70b-chat v4": (SEVENTY, 4096, 4, SECOND),
    "13b-chat v6": (THIRTEEN, 8192, 2, SECOND | {"rope_theta": 500000}),
}
LLAMA3 = {
    "rope_type": "llama3", "factor": 5.9, "original_max_position_embeddings": 13, "low_freq_factor": 0.3,
    "high_freq_factor": 1.4,
}  # fmt: skip
YARN = {"type": "yarn", "factor": 4.6, "original_max_position_embeddings": 13, "beta_fast": 1.7, "truncate": False}
CAME = {
    "dynamic of transformers 4": {"rope_scaling": {"type": "dynamic", "factor": 5.3}, "rope_theta": 731.0},
    "dynamic of transformers 5": {"rope_parameters": {"rope_type": "dynamic", "factor": 5.3, "rope_theta": 731.0}},
    "linear": {"rope_scaling": {"rope_type": "linear", "factor": 3}},
    "yarn": {"rope_scaling": YARN, "rope_theta": 731.0},
    "yarn of DeepSeek": {"rope_scaling": YARN | {"mscale": 1.9, "mscale_all_dim": 0.7}},
    "yarn by the context": {
        "rope_scaling": {"rope_type": "yarn", "factor": None},
        "original_max_position_embeddings": 9,
    },
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 5e5},
    "llama3 of transformers 5": {"rope_parameters": LLAMA3 | {"rope_theta": 5e5}},
    "default of transformers 5": {"rope_parameters": {"rope_type": "default", "rope_theta": 731.0}},
    "none": {"rope_theta": 731.0, "rope_scaling": None},
}


def read_config(tmp_path, fields):
    content = SIZES | {"max_position_embeddings": 61, "vocab_size": 31} | fields
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in content.items() if v != "absent"}))
    return families.read_hf_config(tmp_path)


def export(config, extra, seq_len=None):
    ids = source_ids(extra)
    given = {"rows": config.vocab_size, "dtype": "float32", "ids": ids, "extra": extra, "seq_len": seq_len}
    return json.loads(json.dumps(llama.to_hf_config(config, reward=False, **given)))


@pytest.mark.parametrize("name", TIGERBOT)
def test_the_published_configs_of_tigerbot_load(tmp_path, name):
    sizes, length, parallel, said = TIGERBOT[name]
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    fields = dict(zip(names, sizes, strict=True)) | {"head_dim": "absent", "pretraining_tp": parallel}
    model = read_config(tmp_path, fields | {"max_position_embeddings": length} | said)
    c = model.config
    assert (c.num_layers, c.model_dim, c.mlp_dim, c.num_heads, c.num_kv_heads) == sizes and c.head_dim == 128
    assert (c.vocab_size, c.rope_base, c.norm_eps) == (said["vocab_size"], said.get("rope_theta", 1e4), 1e-5)
    dynamic = RopeConfig(kind="dynamic", factor=8.0, original_max_position_embeddings=2048)
    assert c.rope == (dynamic if name == "13b-chat v4" else RopeConfig())
    assert reach(c, model.extra, []) == (8 * 2048 if name == "13b-chat v4" else length)
    went = export(c, model.extra)
    assert went["max_position_embeddings"] == length and went["pad_token_id"] == said["pad_token_id"]
    assert went["rope_scaling"] == said.get("rope_scaling")


@pytest.mark.parametrize("name", CAME)
def test_a_rope_goes_out_as_it_came_and_gives_the_config_back(tmp_path, name):
    model = read_config(tmp_path, CAME[name])
    went = export(model.config, model.extra)
    for key in ("rope_scaling", "rope_parameters", "original_max_position_embeddings"):
        assert went.get(key) == CAME[name].get(key)
    assert went["max_position_embeddings"] == 61
    assert read_config(tmp_path, went).config == model.config
    bare = read_config(tmp_path, export(model.config, {}))  # of a run that was trained here: no source is known
    assert bare.config == model.config
    assert families.model_config("llama", json.loads(json.dumps(stored_fields(model.config)))) == model.config


def test_training_at_another_length_does_not_change_what_the_rope_computes(tmp_path):
    """transformers reads the original length of dynamic from max_position_embeddings, and yarn's if it has none."""
    for rope in ({"rope_type": "dynamic", "factor": 5.3}, {"rope_type": "yarn", "factor": 4.0}):
        model = read_config(tmp_path, {"rope_scaling": rope})
        assert model.config.rope.original_max_position_embeddings == 61
        assert read_config(tmp_path, export(model.config, model.extra, seq_len=244)).config.rope == model.config.rope


def test_a_model_without_scaled_rope_is_stored_and_shown_as_before(tmp_path):
    config = read_config(tmp_path, {}).config
    assert "rope" not in stored_fields(config) and not [line for line in dump(config) if line.startswith("rope.")]
    scaled = dataclasses.replace(config, rope=RopeConfig(kind="linear", factor=2.0))
    assert stored_fields(scaled)["rope"]["factor"] == 2.0 and "rope.kind = 'linear'" in dump(scaled)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"factor": 8.0}, r"model\.rope\.factor=8\.0 is not read by kind default"),
        (
            {"kind": "linear", "factor": 2.0, "beta_fast": 3.0},
            r"beta_fast=3\.0 is not read by kind linear, only by yarn",
        ),
        ({"kind": "yarn", "factor": 2.0}, r"needs model\.rope\.original_max_position_embeddings"),
    ],
)
def test_a_rope_setting_that_would_do_nothing_is_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        RopeConfig(**fields)


def test_rows_past_the_positions_of_a_model_are_said_in_one_line(tmp_path, capsys):
    model = read_config(tmp_path, CAME["dynamic of transformers 4"])
    known = reach(model.config, model.extra, [])
    say_past(known, model.config, 323, "m")
    assert capsys.readouterr().err == ""
    say_past(known, model.config, 324, "runs/m")
    line = capsys.readouterr().err
    assert "rows of 324 tokens are past the 323 positions of runs/m" in line and "dynamic, factor 5.3" in line
    say_past(0, model.config, 10**6, "runs/m")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("came", "trained", "positions"),
    [
        ("none", [], 61),
        ("none", ["data.seq_len = 97"], 97),
        ("linear", [], 61),
        ("dynamic of transformers 5", [], 323),
        ("yarn", [], 61),
        ("yarn of DeepSeek", ["data.seq_len = 40"], 61),
        ("llama3", [], 76),
    ],
)
def test_a_checkpoint_reads_as_far_as_its_rope_stretches_what_it_was_trained_at(tmp_path, came, trained, positions):
    model = read_config(tmp_path, CAME[came])
    assert reach(model.config, model.extra, trained) == positions


def test_the_theta_of_the_first_place_that_says_it_counts(tmp_path):
    fields = Fields({"rope_parameters": {"rope_theta": 7.0}, "rope_theta": 9.0}, tmp_path)
    assert theta(fields) == 7.0 and scaling(fields) == RopeConfig()
