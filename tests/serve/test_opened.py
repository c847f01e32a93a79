"""Every kind of folder that `tigerjax chat` opens, and what it says of the others."""

import dataclasses
import json
import shutil
from types import SimpleNamespace

import flax.linen as nn
import jax
import numpy as np
import pytest
from hand_tokenizer import INS, PAD, PIECES, RES, write_added
from tiny_model import CONFIG

from tigerjax.checkpoint.model import save_model
from tigerjax.config import FLOAT32
from tigerjax.convert.hf import Export, to_hf
from tigerjax.errors import ConfigError, DataError
from tigerjax.model import decoder
from tigerjax.model.layers import init
from tigerjax.model.quantised import is_quantised
from tigerjax.serve import opened
from tigerjax.serve.opened import open_to_talk

SIZE = PIECES + 3
MODEL = dataclasses.replace(CONFIG, num_layers=1, vocab_size=SIZE, padded_vocab_size=SIZE)


@pytest.fixture(scope="module")
def weights():
    shapes = nn.unbox(jax.eval_shape(lambda k: init(decoder.LanguageModel(MODEL, FLOAT32), k), jax.random.key(0)))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, weights):
    """tok/, a run of checkpoints/, and a folder of Hugging Face."""
    made = tmp_path_factory.mktemp("opened")
    write_added(made / "tok", INS, RES, PAD)
    save_model(made / "run" / "checkpoints" / "7", weights, MODEL, step=7)
    to_hf(weights, MODEL, made / "hf", Export(tokenizer=made / "tok", seq_len=77))
    return made


def same(one, other) -> bool:
    return jax.tree.all(jax.tree.map(lambda a, b: bool((np.asarray(a) == np.asarray(b)).all()), one, other))


def test_a_folder_of_hugging_face_is_opened_with_its_own_tokenizer(folder, weights, capsys):
    loaded = open_to_talk(folder / "hf")
    assert same(loaded.weights, weights) and loaded.tokenizer.size == SIZE
    assert (loaded.compute.dtype, loaded.reach) == ("float32", 77)
    assert "read from its Hugging Face files" in capsys.readouterr().err
    small = open_to_talk(folder / "hf", dtype="bfloat16", quantise="int8")
    assert small.compute.dtype == "bfloat16" and is_quantised(small.weights["layers"]["mlp"]["up"])


def test_a_checkpoint_that_names_no_tokenizer_needs_one(folder, weights):
    with pytest.raises(ConfigError, match="does not say which tokenizer it has, as an import does not; give it"):
        open_to_talk(folder / "run")
    loaded = open_to_talk(folder / "run", tokenizer=folder / "tok")
    assert same(loaded.weights, weights) and loaded.step == 7


def test_a_run_is_opened_with_the_tokenizer_and_the_type_of_its_config(folder, monkeypatch):
    said = [f"data.tokenizer = {str(folder / 'tok')!r}", "compute.dtype = 'bfloat16'"]
    real = opened.open_model
    monkeypatch.setattr(opened, "open_model", lambda path: real(path)._replace(run_config=said))
    loaded = open_to_talk(folder / "run")
    assert loaded.tokenizer.folder == folder / "tok" and loaded.compute.dtype == "bfloat16"
    assert open_to_talk(folder / "run", dtype="float32").compute.dtype == "float32"
    said[0] = "data.tokenizer = 'elsewhere/tok'"
    with pytest.raises(ConfigError, match="trained with the tokenizer elsewhere/tok, which is not there"):
        open_to_talk(folder / "run")


def test_of_a_folder_of_rounds_the_last_one_is_opened_and_named(folder, tmp_path, capsys):
    for number in ("01", "02"):
        shutil.copytree(folder / "run", tmp_path / "rounds" / number / "train" / "run")
    (tmp_path / "rounds" / "03" / "train" / "run").mkdir(parents=True)  # has not trained yet
    assert open_to_talk(tmp_path, tokenizer=folder / "tok").step == 7
    assert f"this is the one of its last round, {tmp_path}/rounds/02/train/run" in capsys.readouterr().err


def test_what_is_no_language_model_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match="no whole checkpoint here"):
        open_to_talk(tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="holds a LoRA adapter and no model; merge it first"):
        open_to_talk(tmp_path)
    with pytest.raises(ConfigError, match="holds a language model; give a reward model"):
        open_to_talk(folder / "hf", reward=True)


def test_a_reward_model_that_names_no_tokenizer_is_called_a_reward_model(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "open_model", lambda path: SimpleNamespace(kind="reward", run_config=[]))
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match="holds a reward model; give a language model"):
        open_to_talk(tmp_path / "checkpoints")
