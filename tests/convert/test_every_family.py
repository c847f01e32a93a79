"""Every family goes to Hugging Face and back: weights bit by bit, sizes and fields as they were."""

import json
import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.command import convert
from tigerjax.config import FLOAT32
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import families
from tigerjax.model.layers import init

FIELDS = {
    "num_hidden_layers": 2, "hidden_size": 12, "intermediate_size": 15, "num_attention_heads": 6,
    "num_key_value_heads": 3, "head_dim": 10, "vocab_size": 31, "rms_norm_eps": 3e-3, "rope_theta": 731.0,
    "max_position_embeddings": 61, "bos_token_id": 7, "eos_token_id": [8, 9], "pad_token_id": None,
    "hidden_act": "silu",
}  # fmt: skip
LLAMA = {"model_type": "llama", "attention_bias": False, "mlp_bias": False, "rope_scaling": None}
QWEN2 = {"model_type": "qwen2", "use_sliding_window": False, "sliding_window": None, "max_window_layers": 2}
WINDOW = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
QWEN3 = QWEN2 | {"model_type": "qwen3", "attention_bias": False}
MODELS = {
    "llama": LLAMA | {"tie_word_embeddings": True},
    "mistral": {"model_type": "mistral", "sliding_window": 5, "tie_word_embeddings": False},
    "mistral_full": {"model_type": "mistral", "sliding_window": None, "tie_word_embeddings": False},
    "qwen2": QWEN2 | {"tie_word_embeddings": True},
    "qwen2_window": QWEN2 | WINDOW | {"tie_word_embeddings": False},
    "qwen3": QWEN3 | {"tie_word_embeddings": False},
    "qwen3_bias": QWEN3 | WINDOW | {"tie_word_embeddings": True, "attention_bias": True},
}


YARN = {"rope_type": "yarn", "factor": 4.6, "original_max_position_embeddings": 13, "beta_fast": 1.7, "truncate": False}
LLAMA_3 = {"rope_type": "llama3", "factor": 5.9, "original_max_position_embeddings": 13, "low_freq_factor": 0.3}
ROPES = {
    "linear": {"rope_scaling": {"type": "linear", "factor": 3.7}},
    "dynamic": {"rope_scaling": {"type": "dynamic", "factor": 5.3}},
    "yarn": {"rope_scaling": YARN},
    "llama3": {"rope_scaling": LLAMA_3 | {"high_freq_factor": 1.4}},
}


def read(tmp_path, **fields):
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | fields))
    return families.read_hf_config(tmp_path)


@pytest.mark.parametrize("reward", [False, True], ids=["language", "reward"])
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2_window", "qwen3", "qwen3_bias"])
def test_weights_come_back_bit_by_bit_and_fields_as_they_were(name, reward, tmp_path):
    goes_out_and_comes_back(tmp_path, MODELS[name], reward)


@pytest.mark.parametrize("rope", ROPES)
@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_model_of_each_kind_of_rope_comes_back_bit_by_bit(name, rope, tmp_path):
    goes_out_and_comes_back(tmp_path, MODELS[name] | ROPES[rope], False)


def goes_out_and_comes_back(tmp_path, fields, reward):
    family = families.of(read(tmp_path, **fields).config)
    architectures = [family.HF_REWARD if reward else family.HF_LANGUAGE]
    own = fields | {"architectures": architectures} | ({"id2label": {"0": "reward"}} if reward else {})
    opened = read(tmp_path, **own)
    model = (family.reward_model if reward else family.language_model)(opened.config, FLOAT32)
    shapes = nn.unbox(jax.eval_shape(lambda key: init(model, key), jax.random.key(0)))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda a: rng.normal(0, 0.3, a.shape).astype(np.float32), shapes)
    save_model(tmp_path / "run", weights, opened.config, kind=opened.kind, extra=opened.extra)

    convert.to_hf(tmp_path / "run", tmp_path / "hf", verify=True)
    written = json.loads((tmp_path / "hf/config.json").read_text())
    want = FIELDS | own
    assert {field: written[field] for field in want} == want
    head = "lm_head.weight" in load_file(tmp_path / "hf/model.safetensors")
    assert head is not (reward or opened.config.tied)

    convert.from_hf(tmp_path / "hf", tmp_path / "back", verify=True)
    back = load_model(tmp_path / "back")
    assert (back.kind, back.config) == (opened.kind, opened.config)
    jax.tree.map(np.testing.assert_array_equal, back.weights, weights)


def test_what_a_config_leaves_out_is_what_transformers_takes(tmp_path):
    bare = {name: value for name, value in FIELDS.items() if name not in ("num_key_value_heads", "bos_token_id")}
    bare |= {"num_attention_heads": 32, "tie_word_embeddings": True}

    def of(**fields):
        (tmp_path / "config.json").write_text(json.dumps(bare | fields))
        return families.read_hf_config(tmp_path)

    mistral = of(model_type="mistral").config
    assert (mistral.sliding_window, mistral.num_kv_heads) == (4096, 8)
    assert of(model_type="mistral", sliding_window=None).config.sliding_window is None
    qwen2 = of(model_type="qwen2", num_hidden_layers=28, use_sliding_window=True)
    assert (qwen2.config.sliding_window, qwen2.config.num_kv_heads) == (None, 32)
    assert qwen2.extra["hugging_face"]["bos_token_id"] is None
    del bare["head_dim"]
    assert of(model_type="qwen3").config.head_dim == 128


KINDS = ["full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (QWEN2 | WINDOW | {"max_window_layers": 1}, "use_sliding_window=True from layer max_window_layers=1 on"),
        (QWEN3 | WINDOW | {"layer_types": KINDS}, "layer_types of full_attention and sliding_attention"),
        (QWEN3 | {"layer_types": KINDS[1:] * 2}, "layer_types of sliding_attention"),
        (MODELS["mistral"] | {"layer_types": KINDS}, "layer_types=['full_attention', 'sliding_attention']"),
        (LLAMA | {"attention_bias": True}, "attention_bias=True"),
        ({"model_type": "qwen3_moe"}, "qwen3_moe None is not a model that can be read; needs one of Llama"),
        ({"model_type": "deepseek_v3"}, "deepseek_v3 None is not a model that can be read"),
        ({"model_type": "qwen2_vl"}, "qwen2_vl None is not a model that can be read"),
    ],
)  # fmt: skip
def test_what_a_family_does_not_compute_is_refused_by_name(fields, message, tmp_path):
    with pytest.raises(ConfigError, match=re.escape(message)):
        read(tmp_path, **fields)


@pytest.mark.parametrize("value", [0, True, "4096", 1.5])
@pytest.mark.parametrize("model", ["mistral", "qwen2"])
def test_a_window_that_is_no_number_of_tokens_is_refused(model, value, tmp_path):
    with pytest.raises(DataError, match=r"sliding_window=.*, needs a whole number from 1"):
        read(tmp_path, **MODELS[model] | {"use_sliding_window": True, "sliding_window": value})


def test_layers_that_all_have_the_window_are_computed_however_it_is_said(tmp_path):
    by_name = QWEN3 | {"use_sliding_window": True, "sliding_window": 5, "layer_types": KINDS[1:] * 2}
    assert read(tmp_path, **by_name).config == read(tmp_path, **QWEN3 | WINDOW).config
    assert read(tmp_path, **QWEN3 | {"layer_types": KINDS[:1] * 2}).config == read(tmp_path, **QWEN3).config
