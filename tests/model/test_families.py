"""Every family keeps the promises of `families.Family`, and a new one is found by its config, kind and folder."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.config import FLOAT32, ModelConfig, stored_fields
from tigerjax.config.ranges import Count
from tigerjax.errors import ConfigError
from tigerjax.model import families, stack
from tigerjax.model.layers import init
from tigerjax.model.llama.face import FAMILY as llama
from tigerjax.model.mistral import face as mistral
from tigerjax.model.weights import get, paths
from tigerjax.train.optim import decay_mask

SIZES = {
    "num_layers": 3,
    "model_dim": 20,
    "mlp_dim": 44,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 10,
    "vocab_size": 57,
    "padded_vocab_size": 64,
    "rope_base": 777.0,
    "norm_eps": 3e-4,
}
OWN = {
    "llama": [{}],
    "mistral": [{"sliding_window": 5}],
    "qwen2": [{}],
    "qwen3": [{}, {"attention_bias": True}],
}
"""Fields that a family has beyond SIZES, so that all its parts are made."""
MODELS = [
    (family, family.CONFIG(**SIZES, **own, tied=tied))
    for family in families.FAMILIES
    for own in OWN[family.KIND]
    for tied in (False, True)
]
FAMILIES = pytest.mark.parametrize(
    ("family", "config"), MODELS, ids=[f"{family.KIND}-{'tied' if c.tied else 'apart'}" for family, c in MODELS]
)


def declared(model):
    return nn.unbox(jax.eval_shape(lambda key: init(model, key), jax.random.key(0)))


@FAMILIES
@pytest.mark.parametrize("reward", [False, True])
def test_the_hugging_face_rows_name_every_declared_weight_with_its_shape(family, config, reward):
    tree = declared((family.reward_model if reward else family.language_model)(config, FLOAT32))
    rows = family.hf_rows(config, rows=config.vocab_size, reward=reward)
    assert sorted(paths(tree)) == sorted(row.ours for row in rows)
    for row in rows:
        assert get(tree, row.ours).shape == row.stacked_shape(config), row.ours
        theirs = np.arange(math.prod(row.shape), dtype=np.float32).reshape(row.shape)
        assert (row.to_theirs(row.to_ours(theirs)) == theirs).all(), row.ours
    last = "score" if reward else "final_norm/scale" if config.tied else "head"
    assert rows[0].ours == "embed" and rows[-1].ours == last


@FAMILIES
def test_the_numbers_are_those_of_the_declared_weights(family, config):
    tree = declared(family.language_model(config, FLOAT32))

    def count(tree):
        return sum(math.prod(w.shape) for w in jax.tree.leaves(tree))

    assert family.parameter_count(config) == count(tree)
    head = tree["embed"] if config.tied else tree["head"]
    assert ("head" in tree) is not config.tied
    assert family.end_weights(config) == count([tree["embed"], *([] if config.tied else [head])])
    decays = jax.tree.leaves(decay_mask(tree)["layers"])
    matrices = [w for w, is_matrix in zip(jax.tree.leaves(tree["layers"]), decays, strict=True) if is_matrix]
    assert family.layer_weights(config) * config.num_layers == count(matrices)
    products = count(matrices) + count(head)
    assert family.model_flops(config, tokens=5, seq_len=0) == 6 * 5 * products
    names = {stack.BLOCK_IN, *stack.SAVED["save_dots"]}
    assert set(family.saved_features(config)) == names
    again = family.recomputed_weights(config, seq_len=0)
    assert set(again) < names and again[stack.ATTENTION_OUT] == 0
    down = count(tree["layers"]["mlp"]["down"]) // config.num_layers
    assert sum(again.values()) == family.layer_weights(config) - down, "no backward pass reads the output of `down`"


def test_a_window_takes_away_what_the_causal_triangle_has_outside_of_it():
    T, W = 28, 7
    config, full = (mistral.FAMILY.CONFIG(**SIZES, sliding_window=window) for window in (W, None))

    def products(config):
        flops = mistral.FAMILY.model_flops
        return flops(config, tokens=T, seq_len=T) - flops(config, tokens=T, seq_len=0)

    # Half a square for the triangle, and half a square of T - W for what it loses.
    assert products(config) / products(full) == pytest.approx((T**2 - (T - W) ** 2) / T**2)
    assert products(dataclasses.replace(config, sliding_window=T + 1)) == products(full)
    again = mistral.FAMILY.recomputed_weights(config, seq_len=T)[stack.ATTENTION_OUT]
    assert again == round(6 * 10 * (T**2 - (T - W) ** 2) / T)


@pytest.mark.parametrize(("family", "config"), MODELS[1::2], ids=lambda one: getattr(one, "KIND", "tied"))
def test_a_checkpoint_of_every_family_is_read_with_its_config_and_its_reward_model_starts_from_it(
    family, config, tmp_path
):
    shapes = declared(family.language_model(config, FLOAT32))
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    save_model(tmp_path / "a", weights, config, kind=family.KIND)
    loaded = load_model(tmp_path / "a")
    assert (loaded.kind, loaded.config) == (family.KIND, config) and families.of(loaded.config) is family
    start = family.reward_from_language(weights, jax.random.key(2))
    drawn = declared(family.reward_model(config, FLOAT32))
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, drawn)
    assert families.is_reward(family.REWARD_KIND) and families.architecture(family.REWARD_KIND) == family.HF_REWARD


def test_models_of_before_tied_heads_have_the_hash_and_fields_that_they_had():
    assert "tied" not in stored_fields(ModelConfig(**SIZES))
    assert stored_fields(ModelConfig(**SIZES, tied=True))["tied"] is True


def test_a_family_is_found_by_config_kind_and_architecture():
    assert families.of(ModelConfig(**SIZES)) is families.of_kind("llama") is families.of_kind("reward") is llama
    assert (families.is_reward("llama"), families.is_reward("reward")) == (False, True)
    assert families.architecture("reward") == "LlamaForSequenceClassification"
    with pytest.raises(ConfigError, match="kind 'whale' cannot be used here; needs one of llama, reward, mistral, "):
        families.is_reward("whale")
    with pytest.raises(ConfigError, match="does not fit a llama model"):
        families.model_config("llama", SIZES | {"num_experts": 8})


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class WhaleConfig(ModelConfig):
    """The sizes of a family that is made up for the test; its layers are a Llama's."""

    blowholes: Count = 2


@pytest.fixture
def whale(monkeypatch):
    names = {"CONFIG": WhaleConfig, "KIND": "whale", "REWARD_KIND": "whale-reward", "HF_MODEL_TYPE": "whale"}
    names |= {"HF_LANGUAGE": "WhaleForCausalLM", "HF_REWARD": "WhaleForSequenceClassification"}
    made_up = dataclasses.replace(llama, **names)
    monkeypatch.setattr(families, "FAMILIES", (llama, made_up))
    return made_up


def test_a_new_family_has_checkpoints_of_its_own_and_leaves_the_others_alone(whale, tmp_path):
    config = WhaleConfig(**SIZES)
    model = families.of(config).language_model(config, FLOAT32)
    weights = nn.unbox(init(model, jax.random.key(1)))
    save_model(tmp_path / "whale", weights, config, kind=families.of(config).KIND)
    assert json.loads((tmp_path / "whale" / "meta.json").read_text())["kind"] == "whale"
    loaded = load_model(tmp_path / "whale")
    assert loaded.config == config and loaded.config.blowholes == 2
    assert families.of(loaded.config) is whale and not families.is_reward(loaded.kind)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, jnp.asarray(b)), loaded.weights, weights)
    assert families.of(ModelConfig(**SIZES)) is llama
