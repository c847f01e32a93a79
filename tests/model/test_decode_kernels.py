"""The kernels of a decode step give what the plain step gives: in Pallas' interpreter, for every kind of layer."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig
from tigerjax.config.model import Extras
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, make_mesh
from tigerjax.model import cache as kv
from tigerjax.model import decode, decode_kernels, layers
from tigerjax.model.decoder import LanguageModel
from tigerjax.model.quantised import with_held

B, S = 4, 12
PLAIN = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1)
KERNELS = dataclasses.replace(PLAIN, decode_kernels="interpret")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AnyConfig(ModelConfig):
    """Of no family: with what a test gives it."""

    given: Extras = dataclasses.field(default_factory=Extras)

    @property
    def extras(self):
        return self.given


CONFIG = AnyConfig(
    num_layers=3, model_dim=32, mlp_dim=48, num_heads=4, num_kv_heads=2, head_dim=16,
    vocab_size=60, padded_vocab_size=64, rope_base=10_000.0, norm_eps=1e-5,
)  # fmt: skip
KINDS = {
    "grouped heads": Extras(),
    "biases": Extras(qkv_bias=True, o_bias=True),
    "norms of heads": Extras(qk_norm=True),
    "a window": Extras(window=3),
}


@functools.cache
def weights_of(extras, heads=2):
    config = dataclasses.replace(CONFIG, given=extras, num_kv_heads=heads)
    made = nn.unbox(layers.init(LanguageModel(config, PLAIN), jax.random.key(0)))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    # Biases begin as zeros and norms as ones: neither would be missed.
    return config, jax.tree.map(lambda w: w + 0.2 * jax.random.normal(next(keys), w.shape), made)


def steps(weights, config, compute, *, count=3, form=kv.PLAIN):
    """The logits of some steps, and the cache after them; rows have lengths of their own, one of them none."""
    shape = config.num_layers, B, config.num_kv_heads, config.head_dim, S
    rng = np.random.default_rng(2)
    cache = kv.empty(shape, compute.dtype, form)
    full = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), cache)
    cache = full._replace(lengths_B=jnp.array([0, 2, 5, 8], jnp.int32))
    found = []
    for _ in range(count):
        token_B = jnp.asarray(rng.integers(0, 60, B), jnp.int32)
        logits_BV, cache = decode.decode_step(weights, config, compute, cache, token_B, cache.lengths_B)
        found.append(logits_BV[:, :60])
    return jnp.stack(found), cache


def agree(ours, wanted, **tolerance):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_plain_layers(kind):
    config, weights = weights_of(KINDS[kind])
    ours, wanted = (jax.jit(functools.partial(steps, config=config, compute=c))(weights) for c in (KERNELS, PLAIN))
    agree(ours, wanted, rtol=2e-5, atol=2e-5)
    assert (ours[0].argmax(-1) == wanted[0].argmax(-1)).all()


def test_one_query_a_head_and_layers_in_stacks_of_their_own():
    config, weights = weights_of(Extras(), heads=4)
    form = kv.Form(config.num_layers)
    ours, wanted = (steps(kv.unstack(weights), config, c, form=form) for c in (KERNELS, PLAIN))
    agree(ours, wanted, rtol=2e-5, atol=2e-5)


def test_devices_add_up_their_heads_and_their_parts_of_the_mlp():
    config, weights = weights_of(KINDS["biases"])
    mesh = make_mesh(MeshConfig(data=2, tensor=2), jax.devices()[:4])
    ours = in_mesh(mesh, jax.jit(functools.partial(steps, config=config, compute=KERNELS)))(weights)
    agree(ours, steps(weights, config, PLAIN), rtol=3e-5, atol=3e-5)


def test_weights_in_int8_are_scaled_after_the_product():
    config, weights = weights_of(KINDS["biases"])
    held = with_held(weights, "int8")
    agree(steps(held, config, KERNELS), steps(held, config, PLAIN), rtol=2e-4, atol=2e-4)


def test_bfloat16_rounds_where_the_plain_layers_round():
    """Not bit by bit: the plain step rounds the MLP's silu once more, and sums in another order."""
    config, weights = weights_of(Extras())
    weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
    narrow = [dataclasses.replace(c, dtype="bfloat16") for c in (KERNELS, PLAIN)]
    (ours, _), (wanted, _) = (steps(weights, config, c, count=1) for c in narrow)
    exact = steps(weights, config, PLAIN, count=1)[0]
    assert jnp.abs(ours - exact).mean() < 1.2 * jnp.abs(wanted - exact).mean()


def test_what_the_kernels_cannot_read_is_refused_with_what_to_change():
    config, weights = weights_of(Extras())
    refused = functools.partial(steps, config=config, count=1)
    with pytest.raises(ConfigError, match=r"needs heads whose width is a multiple of 128, not 16"):
        refused(weights, compute=dataclasses.replace(PLAIN, decode_kernels="on"))
    with pytest.raises(ConfigError, match=r"not in int4; leave one"):
        refused(with_held(weights, "int4"), compute=KERNELS)
    mesh = make_mesh(MeshConfig(fsdp=2), jax.devices()[:2])
    with pytest.raises(ConfigError, match=r"mesh\.fsdp is 2; give mesh\.tensor"):
        in_mesh(mesh, functools.partial(refused, compute=KERNELS))(weights)
    shape = 1, B, 1, 16, S
    int8 = kv.empty(shape, "float32", kv.Form(1, "int8"))
    with pytest.raises(ConfigError, match=r"not in int8; leave one"):
        decode.decode_step(weights, config, KERNELS, int8, jnp.zeros(B, jnp.int32), int8.lengths_B)


def test_rows_of_attention_fit_the_vector_memory():
    assert decode_kernels.attention_rows(80, 1536, 128, 2) == 8
    assert decode_kernels.attention_rows(10, 1536, 128, 2) == 10  # no whole tiles: all rows at one time
    assert decode_kernels.attention_rows(80, 32_768, 128, 2) == 0
