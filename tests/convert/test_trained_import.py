"""An import that is trained, made a reward model, grown or exported keeps what its config.json said."""

import dataclasses
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
from test_every_family import FIELDS, MODELS
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax import config as config_lib
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import open_model
from tigerjax.command import convert
from tigerjax.config import FLOAT32
from tigerjax.model import families
from tigerjax.model.hf_config import SEQ_LEN, SOURCE, remembered
from tigerjax.model.layers import init
from tigerjax.train.loop import train

HARMLESS = {
    "initializer_range": 0.013,
    "use_cache": False,
    "attention_dropout": 0.1,
    "note": {"said": [1, None, "老虎"]},
    "_name_or_path": "somebody/model",
    "pretraining_tp": 1,
}
"""Keys that nothing here reads."""
OF_THE_FILE = {"transformers_version": "4.41.0", "auto_map": {"AutoModel": "modeling_x.XModel"}, "dtype": "bfloat16"}
"""Keys about the source's own files, which an export does not have."""
GENERATION = {"eos_token_id": [8, 9], "temperature": 0.7}
NAMES = ("llama", "mistral", "qwen2", "qwen3_bias")
LENGTH = 16  # data.seq_len of tiny_config


def imported(folder, name, **fields):
    """The folder of an import of this family, and the config.json that it came with."""
    own = FIELDS | MODELS[name] | HARMLESS | fields
    (folder / "source").mkdir(parents=True)
    (folder / "source/config.json").write_text(json.dumps(own | OF_THE_FILE))
    (folder / "source/generation_config.json").write_text(json.dumps(GENERATION))
    opened = families.read_hf_config(folder / "source")
    model = families.of(opened.config).language_model(opened.config, FLOAT32)
    shapes = nn.unbox(jax.eval_shape(lambda key: init(model, key), jax.random.key(0)))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype(np.float32), shapes)
    save_model(folder / "base", weights, opened.config, kind=opened.kind, extra=opened.extra)
    return folder / "base", own


def trained(folder, base, *, steps=3, name="run", **data):
    model = load_model(base).config
    config = dataclasses.replace(tiny_config(total_steps=steps, every_steps=1), model=model)
    config = dataclasses.replace(
        config,
        checkpoint=dataclasses.replace(config.checkpoint, init_from=str(base)),
        data=dataclasses.replace(config.data, **data),
    )
    train(config, TinyLoader(), run_dir=folder / name, reporting=SILENT)
    return folder / name


@pytest.mark.parametrize("name", NAMES)
def test_a_trained_import_goes_out_with_its_ids_positions_and_other_facts(name, tmp_path):
    base, came = imported(tmp_path, name, vocab_size=64)
    run = trained(tmp_path, base)
    assert config_lib.load(run).model == load_model(base).config
    trained(tmp_path, base, steps=4)  # resumes
    convert.to_hf(run, tmp_path / "hf")
    went = json.loads((tmp_path / "hf/config.json").read_text())
    assert {field: went.get(field) for field in came} == came
    assert not OF_THE_FILE.keys() & went.keys()
    assert json.loads((tmp_path / "hf/generation_config.json").read_text()) == GENERATION
    assert open_model(run).step == 4


def test_a_run_on_longer_rows_than_its_source_reads_goes_out_with_these(tmp_path):
    base, _ = imported(tmp_path, "qwen3", vocab_size=64, max_position_embeddings=LENGTH - 1)
    run = trained(tmp_path, base)
    again = trained(tmp_path, run, name="again")
    for place in (run, again):
        convert.to_hf(place, tmp_path / f"hf_{place.name}")
        assert json.loads((tmp_path / f"hf_{place.name}/config.json").read_text())["max_position_embeddings"] == LENGTH


def test_what_is_remembered_is_the_source_and_the_longest_rows():
    lines = ["data.seq_len = 32"]
    assert remembered({}, []) == {} and remembered({}, lines) == {SEQ_LEN: 32}
    extra = {SOURCE: {"bos_token_id": 7}, SEQ_LEN: 64, "calibration": {}, "source": {}}
    assert remembered(extra, lines) == {SOURCE: {"bos_token_id": 7}, SEQ_LEN: 64}


QWEN25 = {"use_sliding_window": False, "sliding_window": 131_072, "max_window_layers": 70}


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": None, "rope_theta": None, "head_dim": None, "num_key_value_heads": None}),
        ("mistral_full", {}),
        ("qwen2", QWEN25),
        ("qwen2_window", {"layer_types": ["sliding_attention"] * 2}),
        ("qwen3", QWEN25 | {"layer_types": ["full_attention"] * 2}),
        ("qwen3", {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 731.0}}),
    ],
)
def test_config_fields_come_back_as_they_were(name, fields, tmp_path):
    own = {n: v for n, v in (FIELDS | MODELS[name] | HARMLESS | fields).items() if v is not None or n == "pad_token_id"}
    (tmp_path / "config.json").write_text(json.dumps(own | OF_THE_FILE))
    read = families.read_hf_config(tmp_path)
    family, ids = families.of(read.config), families.hf_config.source_ids(read.extra)
    written = family.to_hf_config(
        read.config, reward=False, rows=read.rows, dtype="float32", ids=ids, extra=read.extra, seq_len=None
    )
    assert {field: written.get(field) for field in own} == own
    assert not OF_THE_FILE.keys() & written.keys()
    (tmp_path / "config.json").write_text(json.dumps(written))
    assert families.read_hf_config(tmp_path).config == read.config


@pytest.mark.parametrize(
    ("came", "went"),
    [
        ({}, {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}),
        ({"id2label": {"0": "good"}, "label2id": {"good": 0}}, {"id2label": {"0": "good"}, "label2id": {"good": 0}}),
        ({"id2label": {"0": "a", "1": "b"}, "num_labels": 2}, {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}),
    ],
)
def test_a_reward_model_of_an_import_has_one_label(came, went, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FIELDS | MODELS["qwen2"] | came))
    read = families.read_hf_config(tmp_path)
    written = families.of(read.config).to_hf_config(
        read.config,
        reward=True,
        rows=31,
        dtype="float32",
        ids=families.hf_config.source_ids(read.extra),
        extra=read.extra,
        seq_len=None,
    )
    labels = ("id2label", "label2id", "num_labels")
    assert {name: written[name] for name in labels if name in written} == went
