"""A model is checked once, when it is loaded: its kind, its tokenizer, the size of its vocabulary."""

import dataclasses

import flax.linen as nn
import jax
import pytest
from tiny_model import COMPUTE, CONFIG, ByteTokenizer

from tigerjax.checkpoint.loaded import check_sizes, load
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.errors import ConfigError
from tigerjax.model import decoder, families
from tigerjax.model.layers import init

NOT_SAID = None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A language model of `ByteTokenizer` as `own`, and one that does not say of which tokenizer it is as `any`."""
    folder = tmp_path_factory.mktemp("models")
    weights = nn.unbox(init(decoder.LanguageModel(CONFIG, COMPUTE), jax.random.key(0)))
    for name, sha in (("own", ByteTokenizer.sha256), ("any", NOT_SAID)):
        save_model(folder / name, jax.device_get(weights), CONFIG, tokenizer_sha256=sha, step=5, extra={"a": 1})
    return folder


def tokenizer(**changes):
    return type("Other", (ByteTokenizer,), changes)()


def test_what_is_loaded_is_the_checkpoint_with_what_runs_it(folder):
    ours, whole = load(folder / "own", ByteTokenizer(), compute=COMPUTE), load_model(folder / "own")
    assert (ours.sha256, ours.step, ours.extra, ours.config) == (whole.sha256, 5, {"a": 1}, CONFIG)
    assert ours.compute is COMPUTE and ours.mesh is None and (ours.weights["embed"] == whole.weights["embed"]).all()
    assert load(folder / "any", tokenizer(sha256="f" * 64), compute=COMPUTE).sha256 == whole.sha256


@pytest.mark.parametrize(
    ("name", "changes", "reward", "match"),
    [
        ("own", {"sha256": "f" * 64}, False, "own was trained with tokenizer .{12}, but .* is f{12}; give"),
        ("any", {"size": CONFIG.vocab_size + 1}, False, f"any has {CONFIG.vocab_size} vocabulary entries"),
        ("own", {}, True, "own holds a language model; give a reward model"),
    ],
)
def test_a_model_of_another_kind_or_tokenizer_is_refused(folder, name, changes, reward, match):
    with pytest.raises(ConfigError, match=match):
        load(folder / name, tokenizer(**changes), compute=COMPUTE, reward=reward)


def test_other_sizes_are_named_with_what_is_there_and_what_the_config_needs(folder):
    own = load_model(folder / "own")
    check_sizes(own, CONFIG, where="own")
    deeper = dataclasses.replace(CONFIG, num_layers=CONFIG.num_layers + 2, norm_eps=0.25)
    named = f"model.norm_eps is {CONFIG.norm_eps} there and 0.25 in the config; model.num_layers is {CONFIG.num_layers}"
    with pytest.raises(ConfigError, match=f"own: its model is not that of the config: {named} there and"):
        check_sizes(own, deeper, where="own")
    sizes = {f.name: getattr(CONFIG, f.name) for f in dataclasses.fields(CONFIG)}
    family = families.of_kind("qwen3")
    with pytest.raises(ConfigError, match="it is a llama there and a qwen3 in the config"):
        check_sizes(own, family.CONFIG(**sizes), where="own")
