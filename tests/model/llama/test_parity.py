"""Our Llama against Hugging Face's, on the frozen files of make_parity.py (torch is not needed here)."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.convert import read
from tigerjax.convert.tensors import InMemory
from tigerjax.model import decoder, families
from tigerjax.model.hf_weights import hf_rows

FILES = sorted((Path(__file__).parent / "parity").glob("*.npz"))
LOGITS = 1e-4  # absolute, in float32: the bound
RELATIVE = 1e-4  # of loss and gradients: the bound
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=8)


class Frozen:
    """One file: sizes with the vocabulary padded on our side, and our tree from their tensors of one kind."""

    def __init__(self, path, tmp_path):
        with np.load(path) as file:
            self.file = {name: file[name] for name in file.files}
        (tmp_path / "config.json").write_text(str(self.file["config"]))
        sizes_read = families.read_hf_config(tmp_path).config
        self.rows = sizes_read.vocab_size
        sizes = {name: getattr(sizes_read, name) for name in ModelConfig.__dataclass_fields__}
        self.config = ModelConfig(**(sizes | {"padded_vocab_size": self.rows + 6}))

    def tree(self, kind):
        tensors = {k.removeprefix(kind + " "): v for k, v in self.file.items() if k.startswith(kind + " ")}
        named = InMemory(tensors)
        spec = hf_rows(self.config, rows=self.rows)
        read.check(named, self.config, spec, "npz")
        return read.in_memory(read.Opened("npz", "llama", self.config, named, spec, {}, True))


@pytest.fixture(scope="module", params=FILES, ids=lambda p: p.stem)
def frozen(request, tmp_path_factory):
    return Frozen(request.param, tmp_path_factory.mktemp("hf"))


@functools.partial(jax.jit, static_argnums=0)
def apply(config, weights, tokens_BT, positions_BT):
    model = decoder.LanguageModel(config, COMPUTE)
    return model.apply({"params": weights}, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))


def forward(frozen, weights):
    tokens_BT, positions_BT = jnp.asarray(frozen.file["tokens"]), jnp.asarray(frozen.file["positions"])
    return apply(frozen.config, weights, tokens_BT, positions_BT)


def loss(frozen, weights):
    log_probs = jax.nn.log_softmax(forward(frozen, weights)[:, :-1])
    targets_BT = jnp.asarray(frozen.file["tokens"])[:, 1:]
    return -jnp.take_along_axis(log_probs, targets_BT[..., None], axis=-1).mean()


def test_there_is_a_frozen_file_for_one_two_and_all_kv_heads_and_no_two_sizes_are_equal():
    sizes = [json.loads(str(np.load(path)["config"])) for path in FILES]
    assert [s["num_key_value_heads"] for s in sizes] == [1, 2, sizes[0]["num_attention_heads"]]
    for s in sizes:
        shape = np.load(FILES[0])["tokens"].shape
        counts = [v for k, v in s.items() if isinstance(v, int) and k != "num_key_value_heads"]
        assert len({*counts, *shape}) == len(counts) + 2
        assert s["rope_theta"] not in (10_000.0, 500_000.0) and s["rms_norm_eps"] not in (1e-5, 1e-6)
    assert sum(path.stat().st_size for path in FILES) < 300_000


def test_logits_equal_hugging_face(frozen):
    got = forward(frozen, frozen.tree("weight"))
    assert np.abs(np.asarray(got)[..., : frozen.rows] - frozen.file["logits"]).max() <= LOGITS
    assert np.isneginf(np.asarray(got)[..., frozen.rows :]).all()


def test_loss_and_gradients_equal_hugging_face(frozen):
    value, gradients = jax.jit(jax.value_and_grad(lambda w: loss(frozen, w)))(frozen.tree("weight"))
    np.testing.assert_allclose(value, frozen.file["loss"], rtol=RELATIVE)

    def close(path, got, want):
        distance = np.linalg.norm(np.asarray(got) - want) / np.linalg.norm(want)
        assert distance <= RELATIVE, f"{jax.tree_util.keystr(path)}: {distance:.2e}"

    jax.tree_util.tree_map_with_path(close, gradients, frozen.tree("gradient"))


def test_another_rope_base_or_eps_than_the_config_fails_the_parity(frozen):
    """So that the test above can fail: the customary values do not pass it."""
    for change in ({"rope_base": 10_000.0}, {"norm_eps": 1e-5}):
        other = dataclasses.replace(frozen.config, **change)
        tokens_BT, positions_BT = jnp.asarray(frozen.file["tokens"]), jnp.asarray(frozen.file["positions"])
        got = apply(other, frozen.tree("weight"), tokens_BT, positions_BT)
        assert np.abs(np.asarray(got)[..., : frozen.rows] - frozen.file["logits"]).max() > 100 * LOGITS
