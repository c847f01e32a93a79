"""LoRA adapters in PEFT's form, merged on import: W + alpha / r * B A, computed here for each tensor on its own."""

import json

import numpy as np
import pytest
from hand_tokenizer import PIECES, model_bytes
from safetensors.numpy import load_file, save_file
from test_hf import CONFIG, Q1, edit_config, random_weights

from tigerjax.checkpoint.files import read_meta
from tigerjax.checkpoint.meta import write as write_meta
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.command import convert
from tigerjax.command.cli import main
from tigerjax.convert import hf
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import weights as rows_of_weights

R, ALPHA = 3, 7
EMBED, HEAD, DOWN0 = "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.mlp.down_proj.weight"
PLAIN = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": R, "lora_alpha": ALPHA, "lora_dropout": 0.05, "bias": "none",
    "target_modules": ["q_proj", "down_proj"], "base_model_name_or_path": "meta-llama/Llama-2-7b-hf",
    "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "use_dora": False, "use_rslora": False,
    "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": None, "megatron_core": "megatron.core",
    "megatron_config": None, "qalora_group_size": 16, "use_qalora": False, "loftq_config": {}, "lora_bias": False,
    "layer_replication": None, "peft_version": "0.21.2", "target_parameters": None,
}  # fmt: skip
"""adapter_config.json as peft 0.21 writes it."""
ROUNDING = 1e-6  # float32 products of three numbers, summed in another order


@pytest.fixture
def base(tmp_path):
    hf.to_hf(random_weights(), CONFIG, tmp_path / "base", hf.Export(tokenizer=None))
    return tmp_path / "base"


def pair(tensors, name, rank=R, *, embedding=False):
    """The two matrices of a product, by their names in an adapter's file."""
    rng = np.random.default_rng(len(name) + rank)
    out, into = tensors[name].shape if not embedding else tensors[name].shape[::-1]
    a, b = (rng.normal(size=size, scale=0.4).astype(np.float32) for size in ((rank, into), (out, rank)))
    module, ends = f"base_model.model.{name.removesuffix('.weight')}", ("lora_A.weight", "lora_B.weight")
    if embedding:
        ends = ("lora_embedding_A", "lora_embedding_B")
    return {f"{module}.{ends[0]}": a, f"{module}.{ends[1]}": b}


def write_adapter(folder, tensors, **config):
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    products = {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in tensors if ".lora_" in name}
    (folder / "adapter_config.json").write_text(json.dumps(PLAIN | {"target_modules": sorted(products)} | config))
    return folder


def merged(tmp_path, adapter, base):
    """The tensors of an export of base and adapter."""
    convert.from_hf(adapter, tmp_path / "run", base=base, verify=True)
    convert.to_hf(tmp_path / "run", tmp_path / "out")
    return load_file(tmp_path / "out/model.safetensors")


def assert_changed(got, base, expected):
    """`got` is `base` but for the tensors in `expected`."""
    assert set(got) == set(base)
    for name in got:
        if name in expected:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(got[name], expected[name], rtol=0, atol=ROUNDING * scale)
            assert not np.array_equal(got[name], base[name])
        else:
            np.testing.assert_array_equal(got[name], base[name])


@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_a_product_of_every_module_is_added(tmp_path, base, monkeypatch, rank_stabilised):
    monkeypatch.setattr(rows_of_weights, "BLOCK_BYTES", 4 * 12 * 8)  # several blocks of every tensor
    tensors = load_file(base / "model.safetensors")
    names = [name for name in tensors if name.endswith("_proj.weight") or name == HEAD]
    assert len(names) == 3 * 7 + 1
    parts, expected = {}, {}
    for name in names:
        parts |= (ab := pair(tensors, name))
        a, b = (ab[key].astype(np.float64) for key in sorted(ab))
        expected[name] = tensors[name] + ALPHA / (R**0.5 if rank_stabilised else R) * (b @ a)
    adapter = write_adapter(tmp_path / "lora", parts, use_rslora=rank_stabilised)
    assert_changed(merged(tmp_path, adapter, base), tensors, expected)


def test_patterns_an_embedding_and_saved_modules_are_read(tmp_path, base):
    tensors = load_file(base / "model.safetensors")
    norm = "model.norm.weight"
    parts = pair(tensors, Q1) | pair(tensors, DOWN0, rank=5) | pair(tensors, EMBED, embedding=True)
    parts |= {f"base_model.model.{norm}": tensors[norm] * 2, f"base_model.model.{HEAD}": tensors[HEAD] + 1}
    parts["base_model.model.model.embed_tokens.base_layer.weight"] = tensors[EMBED] * 3  # saved beside its product
    config = {"rank_pattern": {"0.mlp.down_proj": 5}, "alpha_pattern": {"^model.layers.1.self_attn.q_proj": 11}}
    adapter = write_adapter(tmp_path / "lora", parts, **config, modules_to_save=["lm_head", "norm"])
    p = {name.removeprefix("base_model.model."): t.astype(np.float64) for name, t in parts.items()}
    q, down, embed = (name.removesuffix(".weight") for name in (Q1, DOWN0, EMBED))
    expected = {
        Q1: tensors[Q1] + 11 / R * (p[f"{q}.lora_B.weight"] @ p[f"{q}.lora_A.weight"]),
        DOWN0: tensors[DOWN0] + ALPHA / 5 * (p[f"{down}.lora_B.weight"] @ p[f"{down}.lora_A.weight"]),
        EMBED: 3 * tensors[EMBED] + ALPHA / R * (p[f"{embed}.lora_embedding_B"] @ p[f"{embed}.lora_embedding_A"]).T,
        norm: tensors[norm] * 2,
        HEAD: tensors[HEAD] + 1,
    }
    assert_changed(merged(tmp_path, adapter, base), tensors, expected)


def test_a_run_is_a_base_too_and_its_tokenizer_and_length_stay(tmp_path, base):
    tensors = load_file(base / "model.safetensors")
    extra = {"calibration": {"mean": 0.5}}
    run = tmp_path / "base_run"
    save_model(run / "checkpoints/5", random_weights(), CONFIG, tokenizer_sha256="abc", extra=extra, step=5)
    meta = read_meta(run / "checkpoints/5") | {"config": ["name = 'x'", "data.seq_len = 61"]}
    write_meta(run / "checkpoints/5/meta.json", meta)
    adapter = write_adapter(tmp_path / "lora", ab := pair(tensors, Q1))
    a, b = (ab[key] for key in sorted(ab))
    assert_changed(merged(tmp_path, adapter, run), tensors, {Q1: tensors[Q1] + ALPHA / R * (b @ a)})
    model = load_model(tmp_path / "run")
    assert model.tokenizer_sha256 == "abc" and model.extra["calibration"] == extra["calibration"]
    source = model.extra["source"]
    assert source["adapter"] == "lora" and (source["base"]["checkpoint"], source["base"]["step"]) == ("5", 5)
    assert json.loads((tmp_path / "out/config.json").read_text())["max_position_embeddings"] == 61


def test_the_tokenizer_of_the_base_says_its_vocabulary(tmp_path, base, capsys):
    del base
    from test_meta_form import CONFIG as WIDE
    from test_meta_form import random_weights as wide_weights

    hf.to_hf(wide_weights(), WIDE, tmp_path / "wide", hf.Export(tokenizer=None))
    edit_config(tmp_path / "wide", tigerjax="absent")
    (tmp_path / "wide/tokenizer.model").write_bytes(model_bytes())
    tensors = load_file(tmp_path / "wide/model.safetensors")
    adapter = write_adapter(tmp_path / "lora", pair(tensors, Q1))
    convert.from_hf(adapter, tmp_path / "run", base=tmp_path / "wide")
    assert "the other 4 are padding" in capsys.readouterr().err
    assert load_model(tmp_path / "run").config.vocab_size == PIECES


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora=True makes another adapter than plain LoRA; merge it with peft"),
        ({"peft_type": "LOHA"}, "peft_type='LOHA' is not read, only LORA; merge it with peft"),
        ({"peft_type": None}, "peft_type=None is not read"),
        ({"bias": "lora_only"}, "bias='lora_only' makes another"),
        ({"lora_bias": True}, "lora_bias=True makes another"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True makes another"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4' makes another"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "layer_replication=.* makes another"),
        ({"trainable_token_indices": [5]}, "trainable_token_indices=.* makes another"),
        ({"something_of_next_year": {"x": 1}}, "something_of_next_year=.* makes another"),
        ({"r": 4}, "says rank 4 for model.layers.1.self_attn.q_proj, but its matrices have 3"),
        ({"r": "3"}, "r='3', needs a whole number"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan, needs"),
        ({"lora_alpha": None}, "lora_alpha=None|lora_alpha=null|lora_alpha"),
        ({"alpha_pattern": {"(": 3}}, "is no regular expression"),
        ({"alpha_pattern": ["q_proj"]}, "alpha_pattern=.*, needs an object"),
        ({"use_rslora": "yes"}, "use_rslora='yes', needs true or false"),
        ({"target_modules": ["k_proj"]}, r"does not name model\.layers\.1\.self_attn\.q_proj \(1 such of 1\)"),
        ({"target_modules": r".*\.0\..*q_proj"}, r"does not name model\.layers\.1\.self_attn\.q_proj"),
        ({"target_modules": "("}, "target_modules='\\(' is no regular expression"),
        ({"target_modules": 3}, "target_modules=3, needs a list of strings"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_name(tmp_path, base, config, message):
    adapter = write_adapter(tmp_path / "lora", pair(load_file(base / "model.safetensors"), Q1), **config)
    with pytest.raises((ConfigError, DataError), match=message) as error:
        convert.from_hf(adapter, tmp_path / "run", base=base)
    assert "\n" not in str(error.value) and "adapter_config.json" in str(error.value)
    assert not list(tmp_path.glob("run*"))


def test_half_of_an_adapter_is_not_merged(tmp_path, base, capsys):
    tensors = load_file(base / "model.safetensors")
    for config, told in (
        ({"target_modules": ["q_proj"]}, "has nothing for model.layers.0.self_attn.q_proj (2 such of 3)"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [1]}, ""),
        ({"target_modules": "all-linear"}, ""),
    ):
        adapter = write_adapter(tmp_path / "lora", pair(tensors, Q1), **config)
        words = ["convert", "from-hf", str(adapter), str(tmp_path / f"run{len(told)}"), "--base", str(base)]
        assert main(words) == (3 if told else 0) and told in capsys.readouterr().err
        assert (tmp_path / f"run{len(told)}").exists() == (not told)


def test_tensors_that_do_not_fit_the_base_are_named(tmp_path, base):
    tensors = load_file(base / "model.safetensors")
    whole = pair(tensors, Q1)
    a, b = sorted(whole)
    cases = [
        ({a: whole[a]}, "lora_A.weight has no other half"),
        (whole | {b: whole[b][:, :2].copy()}, "cannot be multiplied"),
        (whole | {b: whole[b][:-1].copy()}, rf"{Q1} is of shape \(23, 12\), but \(24, 12\) in"),
        (pair({"model.layers.9.mlp.up_proj.weight": tensors[Q1]}, "model.layers.9.mlp.up_proj.weight"),
         r"changes model\.layers\.9\.mlp\.up_proj\.weight \(1 such of 1\), which .* does not have"),
        (whole | {f"base_model.model.{EMBED}": np.ones((33, 12), np.float32)},
         r"embed_tokens.weight is of shape \(33, 12\)"),
        ({}, "holds no tensor"),
    ]  # fmt: skip
    for parts, message in cases:
        adapter = write_adapter(tmp_path / "lora", parts)
        with pytest.raises(DataError, match=message):
            convert.from_hf(adapter, tmp_path / "run", base=base)
    edit_config(base, tie_word_embeddings=True)
    del tensors[HEAD]
    save_file(tensors, base / "model.safetensors")
    adapter = write_adapter(tmp_path / "lora", pair(tensors, EMBED, embedding=True))
    with pytest.raises(ConfigError, match=r"changes model\.embed_tokens\.weight, but embedding and head of .* are one"):
        convert.from_hf(adapter, tmp_path / "run", base=base)


@pytest.mark.parametrize(
    ("named", "noted"),
    [
        ("meta-llama/Llama-2-7b-hf", True),
        ("elsewhere/base", False),
        ("/runs/base/checkpoints/700", False),
        ("", False),
        (".", True),
    ],
)
def test_a_base_of_another_name_than_the_adapters_is_noted(tmp_path, base, capsys, named, noted):
    tensors = load_file(base / "model.safetensors")
    adapter = write_adapter(tmp_path / "lora", pair(tensors, Q1), base_model_name_or_path=named)
    convert.from_hf(adapter, tmp_path / "run", base=base)
    line = f"lora was trained on {named!r} and is merged into {base}; these must be the same model"
    assert (line in capsys.readouterr().err) == noted


def test_a_folder_that_is_not_there_is_not_told_as_one_with_other_contents(tmp_path, base, capsys):
    gone, file = tmp_path / "gone", base / "config.json"
    for folder, onto, told in (
        (gone, base, f"{gone}: not there; give the adapter's folder"),
        (base, gone, f"{gone}: not there; give the model that the adapter was trained on"),
        (file, base, f"{file}: a file; give the adapter's folder"),
    ):
        words = ["convert", "from-hf", str(folder), str(tmp_path / "run"), "--base", str(onto)]
        assert main(words) == 3 and capsys.readouterr().err == f"tigerjax: {told}\n"


def test_the_adapter_of_a_reward_model_makes_one_of_its_language_model(tmp_path, base):
    tensors = load_file(base / "model.safetensors")
    score = np.arange(12, dtype="f4")[None]
    parts = pair(tensors, Q1) | {"base_model.model.score.weight": score}
    how = {"task_type": "SEQ_CLS", "modules_to_save": ["score"]}
    got = merged(tmp_path, write_adapter(tmp_path / "lora", parts, **how), base)
    assert load_model(tmp_path / "run").kind == "reward"
    a, b = (parts[f"base_model.model.{Q1.removesuffix('.weight')}.lora_{side}.weight"] for side in "AB")
    np.testing.assert_array_equal(got.pop("score.weight"), score)
    del tensors[HEAD]
    assert_changed(got, tensors, {Q1: tensors[Q1] + ALPHA / R * b @ a})
    convert.from_hf(tmp_path / "lora", tmp_path / "again", base=tmp_path / "run")  # a reward model is a base too
    assert load_model(tmp_path / "again").kind == "reward"
    parts.pop("base_model.model.score.weight")
    with pytest.raises(ConfigError, match=r"has no score\.weight, which .*, a language model, lacks"):
        convert.from_hf(write_adapter(tmp_path / "lora", parts, **how), tmp_path / "none", base=base)
    two = parts | {"base_model.model.score.weight": np.ones((2, 12), "f4")}
    with pytest.raises(DataError, match=r"score\.weight is of shape \(2, 12\), but \(1, 12\) in"):
        convert.from_hf(write_adapter(tmp_path / "lora", two, **how), tmp_path / "none", base=base)


def test_an_adapter_and_its_base_go_together(tmp_path, base, capsys):
    adapter = write_adapter(tmp_path / "lora", pair(load_file(base / "model.safetensors"), Q1))
    cases = [
        ((adapter, None), "a LoRA adapter is merged into its base model; give that as --base"),
        ((base, adapter), "holds no LoRA adapter, which --base is for; leave --base out"),
        ((adapter, adapter), "a LoRA adapter is no model; `tigerjax convert from-hf` merges it"),
    ]
    for (folder, onto), message in cases:
        words = ["convert", "from-hf", str(folder), str(tmp_path / "run")]
        assert main(words + (["--base", str(onto)] if onto else [])) == 2
        assert message in capsys.readouterr().err
    (adapter / "adapter_model.safetensors").unlink()
    assert main(["convert", "from-hf", str(adapter), str(tmp_path / "run"), "--base", str(base)]) == 3
    assert "adapter_model.safetensors: not there; copy it beside adapter_config.json" in capsys.readouterr().err
    assert not list(tmp_path.glob("run*"))
