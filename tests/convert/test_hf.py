"""Export to and import from Hugging Face's format, without transformers; test_hf_transformers.py loads it there."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tigerjax.config import ModelConfig
from tigerjax.convert import hf, read
from tigerjax.convert.tensors import INDEX
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import families
from tigerjax.model.hf_weights import hf_rows
from tigerjax.model.weights import put

CONFIG = ModelConfig(
    num_layers=3,
    model_dim=12,
    mlp_dim=28,
    num_heads=6,
    num_kv_heads=2,
    head_dim=4,
    vocab_size=31,
    padded_vocab_size=40,
    rope_base=731.0,
    norm_eps=3e-3,
)
Q1 = "model.layers.1.self_attn.q_proj.weight"


def random_weights(*, reward=False):
    """Random in every entry but the padding of the vocabulary, which is zero."""
    rng, out = np.random.default_rng(0), {}
    for row in hf_rows(CONFIG, rows=CONFIG.vocab_size, reward=reward):
        w = np.zeros(row.stacked_shape(CONFIG), np.float32)
        for i in range(len(row.names(CONFIG))):
            w[row.place(i, 0, row.shape[0])] = row.to_ours(rng.normal(size=row.shape).astype(np.float32))
        put(out, row.ours, w)
    return out


@pytest.fixture
def weights():
    return random_weights()


@pytest.fixture
def exported(weights, tmp_path):
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))
    return tmp_path / "hf"


def tokenizer_folder(path, size):
    path.mkdir()
    added = [{"id": size - 1, "content": "<pad>"}, {"id": size - 2, "content": "\n\n### Response:\n"}]
    added += [{"id": i, "content": text} for i, text in enumerate(["<unk>", "<s>", "</s>"])]
    (path / "tokenizer.json").write_text(
        json.dumps({"added_tokens": added, "model": {"vocab": {f"p{i}": i for i in range(size - 2)}}})
    )
    (path / "tokenizer.model").write_bytes(b"pieces")
    (path / "manifest.json").write_text("{}")
    return path


def assert_same(got, want):
    jax.tree.map(np.testing.assert_array_equal, got, want)


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("vocab", ["trimmed", "padded"])
@pytest.mark.parametrize("max_shard_bytes", [hf.MAX_SHARD_BYTES, 3000])
def test_import_of_an_export_is_bit_equal(weights, tmp_path, vocab, max_shard_bytes):
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None, vocab=vocab, max_shard_bytes=max_shard_bytes))
    config, back = hf.from_hf(tmp_path / "hf")
    assert config == CONFIG
    assert_same(back, weights)
    assert all(w.dtype == np.float32 and w.flags.c_contiguous for w in jax.tree.leaves(back))


def test_import_of_an_exported_reward_model_is_bit_equal(tmp_path):
    weights = random_weights(reward=True)
    assert "head" not in weights and weights["score"].shape == (CONFIG.model_dim,)
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))
    config, back = hf.from_hf(tmp_path / "hf")
    assert config == CONFIG
    assert_same(back, weights)
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]


def test_a_bfloat16_export_comes_back_rounded_once(weights, tmp_path):
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None, dtype="bfloat16"))
    _, back = hf.from_hf(tmp_path / "hf")
    assert_same(back, jax.tree.map(lambda w: w.astype(ml_dtypes.bfloat16).astype(np.float32), weights))


def test_vocabulary_is_trimmed_by_default_and_padded_on_request(weights, tmp_path):
    for vocab, rows in (("trimmed", 31), ("padded", 40)):
        hf.to_hf(weights, CONFIG, tmp_path / vocab, hf.Export(tokenizer=None, vocab=vocab))
        assert json.loads((tmp_path / vocab / "config.json").read_text())["vocab_size"] == rows
        tensors = load_file(tmp_path / vocab / "model.safetensors")
        assert tensors["lm_head.weight"].shape == tensors["model.embed_tokens.weight"].shape == (rows, 12)


def test_no_shard_is_larger_than_asked_and_the_index_names_every_tensor(weights, tmp_path):
    counts = hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None, max_shard_bytes=3000))
    index = json.loads((tmp_path / "hf" / INDEX).read_text())
    assert index["metadata"]["total_size"] == counts["bytes"] == sum(w.nbytes for w in jax.tree.leaves(weights)) - 864
    files = sorted(p.name for p in (tmp_path / "hf").glob("*.safetensors"))
    assert len(files) > 3 and files == sorted(set(index["weight_map"].values()))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    for file in files:
        with safe_open(tmp_path / "hf" / file, framework="np") as f:
            assert {name for name, at in index["weight_map"].items() if at == file} == set(f.keys())
            assert sum(f.get_tensor(name).nbytes for name in f.keys()) <= 3000
    assert len(index["weight_map"]) == counts["tensors"] == 3 + 9 * 3


def test_tokenizer_files_are_copied_and_its_ids_are_in_the_configs(weights, tmp_path):
    folder = tokenizer_folder(tmp_path / "tok", CONFIG.vocab_size)
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=folder))
    assert (tmp_path / "hf/tokenizer.model").read_bytes() == b"pieces"
    config = json.loads((tmp_path / "hf/config.json").read_text())
    generation = json.loads((tmp_path / "hf/generation_config.json").read_text())
    assert config["pad_token_id"] == generation["pad_token_id"] == 30
    assert (config["bos_token_id"], config["eos_token_id"], generation["eos_token_id"]) == (1, 2, [2, 29, 30])
    assert json.loads((tmp_path / "hf/manifest.json").read_text())["stage"] == read.EXPORT


def test_a_tokenizer_of_another_size_is_refused(weights, tmp_path):
    folder = tokenizer_folder(tmp_path / "tok", CONFIG.vocab_size + 1)
    with pytest.raises(ConfigError, match="has 32 entries, but the model has vocab_size=31"):
        hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=folder))


def test_export_replaces_an_export_but_nothing_else(weights, tmp_path):
    out = tmp_path / "hf"
    hf.to_hf(weights, CONFIG, out, hf.Export(tokenizer=None, vocab="padded"))
    hf.to_hf(weights, CONFIG, out, hf.Export(tokenizer=None))
    assert hf.from_hf(out)[0] == CONFIG
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something that is not an export"):
        hf.to_hf(weights, CONFIG, tmp_path / "mine", hf.Export(tokenizer=None))
    assert (tmp_path / "mine/thesis.txt").read_text() == "years of work"
    (out / "handler.py").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds handler\.py, which stage 'convert to-hf' did not write"):
        hf.to_hf(weights, CONFIG, out, hf.Export(tokenizer=None))
    assert (out / "handler.py").read_text() == "mine" and hf.from_hf(out)[0] == CONFIG


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_refused_by_name_and_leaves_the_old_export(weights, exported, value):
    before = (exported / "model.safetensors").read_bytes()
    weights["layers"]["attn"]["q"][1, 0, 0, 0] = value
    with pytest.raises(DataError, match=f"{Q1} holds a value that is not finite"):
        hf.to_hf(weights, CONFIG, exported, hf.Export(tokenizer=None))
    assert (exported / "model.safetensors").read_bytes() == before
    assert [p.name for p in exported.parent.iterdir()] == ["hf"]


def test_weights_of_another_kind_or_shape_are_refused_by_path(weights, tmp_path):
    with pytest.raises(DataError, match="weights lack head"):
        hf.to_hf({n: w for n, w in weights.items() if n != "head"}, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))
    with pytest.raises(DataError, match="weights hold extra"):
        hf.to_hf(weights | {"extra": np.zeros(1)}, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))
    with pytest.raises(DataError, match=r"weights head have shape \(12, 39\), but the config needs \(12, 40\)"):
        hf.to_hf(weights | {"head": weights["head"][:, 1:]}, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None))


def test_import_refuses_broken_tensors_by_name(exported):
    def nan(tensors):
        tensors[Q1][0, 0] = np.nan

    def misshapen(tensors):
        tensors[Q1] = tensors[Q1][:, :-1].copy()

    def leftover(tensors):
        tensors["model.layers.1.self_attn.q_proj.bias"] = np.zeros(24, np.float32)

    good = (exported / "model.safetensors").read_bytes()
    for change, message in [
        (nan, f"{Q1} holds a value that is not finite"),
        (misshapen, rf"{Q1} has shape \(24, 11\), but the config needs \(24, 12\)"),
        (leftover, "1 tensors are left over that no weight takes, such as model.layers.1.self_attn.q_proj.bias"),
        (lambda tensors: tensors.pop(Q1), rf"lacks {Q1} \(1 of 3 for layers/attn/q\)"),
    ]:
        (exported / "model.safetensors").write_bytes(good)
        rewrite(exported, change)
        with pytest.raises(DataError, match=message):
            hf.from_hf(exported)


def test_import_refuses_a_missing_or_truncated_shard(weights, tmp_path):
    out = tmp_path / "hf"
    hf.to_hf(weights, CONFIG, out, hf.Export(tokenizer=None, max_shard_bytes=3000))
    shard = sorted(out.glob("model-*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=f"{shard.name}: not a whole safetensors file"):
        hf.from_hf(out)
    shard.unlink()
    with pytest.raises(DataError, match=f"{shard.name}: not there"):
        hf.from_hf(out)


def test_rotary_buffers_of_older_checkpoints_are_checked_and_dropped(weights, exported):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    right = (731.0 ** (-np.arange(0, 4, 2) / 4)).astype(np.float32)
    rewrite(exported, lambda tensors: tensors.update({name: right}))
    assert_same(hf.from_hf(exported)[1], weights)
    rewrite(exported, lambda tensors: tensors.update({name: right * 2}))
    with pytest.raises(DataError, match=r"inv_freq does not belong to rope_theta=731\.0"):
        hf.from_hf(exported)


def edit_config(folder, **changes):
    read = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (read | changes).items() if v != "absent"}))


def test_configs_of_transformers_4_and_5_and_of_the_first_llama_2_read_the_same(exported):
    edit_config(exported, rope_theta="absent", rope_parameters={"rope_theta": 731.0, "rope_type": "default"})
    assert families.read_hf_config(exported).config == CONFIG
    edit_config(exported, rope_parameters="absent", head_dim="absent", num_key_value_heads="absent")
    read = families.read_hf_config(exported).config
    assert (read.rope_base, read.head_dim, read.num_kv_heads) == (10_000.0, 2, 6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "longrope", "factor": 8.0}}, "rope_scaling .*longrope"),
        ({"rope_parameters": {"rope_theta": 731.0, "rope_type": "proportional"}}, "rope_parameters .*proportional"),
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"model_type": "mixtral"}, "mixtral LlamaForCausalLM is not a model that can be read"),
        ({"hidden_size": "absent"}, "lacks hidden_size"),
        ({"vocab_size": 41}, r"vocab_size=41 is outside \[31, 40\]"),
    ],
)
def test_a_config_that_our_model_does_not_compute_is_refused(exported, change, message):
    edit_config(exported, **change)
    with pytest.raises((ConfigError, DataError), match=message):
        hf.from_hf(exported)


def test_a_config_that_is_not_json_or_not_there_is_refused(exported):
    (exported / "config.json").write_text('{\n"model_type": llama}')
    with pytest.raises(DataError, match=r"config\.json:2: not JSON"):
        hf.from_hf(exported)
    (exported / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json: not there"):
        hf.from_hf(exported)


VLLM_READS = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 12,
    "intermediate_size": 28,
    "hidden_act": "silu",
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rope_theta": 731.0,
    "rope_scaling": None,
    "max_position_embeddings": 77,
    "attention_bias": False,
    "mlp_bias": False,
    "rms_norm_eps": 3e-3,
    "vocab_size": 31,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
"""The fields of config.json that vllm/model_executor/models/llama.py reads (vLLM, commit 0035bdf), and those of
text-generation-inference's flash_llama_modeling.py (commit 0036084)."""


def test_the_config_has_every_field_that_vllm_and_tgi_read(weights, tmp_path):
    hf.to_hf(weights, CONFIG, tmp_path / "hf", hf.Export(tokenizer=None, seq_len=77))
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert {name: config.get(name, "absent") for name in VLLM_READS} == VLLM_READS
