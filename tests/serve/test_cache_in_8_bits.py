"""Keys and values in 8 bits: the answers of the sampler and the engine, and how far they are from float32."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from asking import Answers, ask

from tigerjax import mesh as mesh_axes
from tigerjax.checkpoint.loaded import quantised
from tigerjax.config import FLOAT32, MeshConfig
from tigerjax.model import cache as kv
from tigerjax.model import decode, families
from tigerjax.model.quantised import rounded
from tigerjax.sample import slots
from tigerjax.sample.engine import Batching, SamplingConfig, generate
from tigerjax.serve.engine import Ask, Engine

FORM = kv.Form(1, "int8")
NEAR = 0.3
"""Logits of the tiny model are off by as much at most: they have a range of 30, and each of its heads has 10 features,
few neighbours over which errors could cancel."""
CHUNK = 16  # of the fixture `batching`


@pytest.fixture(scope="module")
def in_8_bits(tiny):
    return quantised(tiny.loaded(), None, "int8")


@pytest.fixture(scope="module")
def serving(in_8_bits, batching):
    engine = Engine(in_8_bits, batching=batching)
    yield engine
    engine.close()


def answers(engine: Engine, one: Ask) -> list[list[int]]:
    got = Answers(one.n)
    engine.submit(one, got)
    return [ids for ids, _ in got.result()]


def sampled(model, text: str, one: Ask) -> list[list[int]]:
    how = {name: getattr(one, name) for name in ("n", "max_new_tokens", "temperature", "top_p", "top_k", "seed")}
    prompt = {"prompt_id": one.prompt_id, "text": text}
    sampling = SamplingConfig(**how, context=96)
    (record,) = generate(model, [prompt], sampling, batching=Batching(prompts=1, rows=4))
    return [c["token_ids"] for c in record["candidates"]]


@pytest.mark.parametrize("stacks", [1, 2])
def test_a_token_that_is_held_is_off_by_half_a_step_of_its_own_scale(stacks):
    rng = np.random.default_rng(0)
    L, B, K, H, S, T = 2, 3, 2, 10, 12, 5
    new = [jnp.asarray(rng.normal(size=(L // stacks, B, T, K, H)), jnp.float32) for _ in range(2 * stacks)]
    cache = kv.empty((L, B, K, H, S), "float32", kv.Form(stacks, "int8"))._replace(lengths_B=jnp.array([0, 2, 7]))
    plain = kv.empty((L, B, K, H, S), "float32", kv.Form(stacks))._replace(lengths_B=cache.lengths_B)
    count_B = jnp.array([5, 3, 0])
    keys, values = tuple(new[:stacks]), tuple(new[stacks:])
    made, want = (kv.append_several(one, keys, values, count_B) for one in (cache, plain))
    one_more = tuple(x[:, :, 0] for x in keys), tuple(x[:, :, 1] for x in values)
    made, want = (kv.append(one, *one_more, one.lengths_B) for one in (made, want))
    assert sum(a.nbytes for a in jax.tree.leaves(made[:2])) < 0.4 * sum(a.nbytes for a in jax.tree.leaves(want[:2]))
    keys = tuple(kv.mixed(one, 3) for one in want.keys)
    for held, whole, axes in ((made.keys, keys, (3, 4)), (made.values, want.values, (4, 3))):
        for one, other in zip(held, whole, strict=True):
            scales = one.scales_LBK1S.transpose(0, 1, 2, *axes)
            assert one.numbers.dtype == jnp.int8 and scales.shape == (
                L // stacks,
                B,
                K,
                *((1, S) if axes[0] == 3 else (S, 1)),
            )
            assert (jnp.abs(one.numbers * scales - other) <= scales * 0.5001).all()
            assert jnp.abs(other).max() > 0.5


@pytest.mark.parametrize("H", [1, 10, 12, 64])
def test_mixed_queries_and_keys_have_the_products_of_the_queries_and_keys(H):
    q_TH, k_TH = np.random.default_rng(1).normal(size=(2, 5, H)).astype(np.float32)
    np.testing.assert_allclose(kv.mixed(q_TH) @ kv.mixed(k_TH).T, q_TH @ k_TH.T, atol=1e-5)
    np.testing.assert_allclose(kv.mixed(kv.mixed(k_TH.T, 0), 0), k_TH.T, atol=1e-6)


def test_a_feature_that_is_much_larger_than_the_others_does_not_hide_them():
    rng = np.random.default_rng(2)
    K, H, S = 2, 64, 40
    k_LBKHS = rng.normal(size=(1, 1, K, H, S)).astype(np.float32)
    k_LBKHS[..., 5, :] *= 30
    q_BTNH = rng.normal(size=(1, 1, K, H)).astype(np.float32)
    q_BTNH[..., 5] /= 30
    plain = kv.Cache((jnp.asarray(k_LBKHS),), (jnp.ones((1, 1, K, S, H)),), jnp.array([S]))
    (held,) = kv.in_form_of(plain, kv.empty((1, 1, K, H, S), "float32", FORM)).keys
    as_they_are = rounded(plain.keys[0], (3,), "int8")
    scores = [
        np.einsum("BTKH,LBKHS->KS", q_BTNH, k)
        for k in (
            k_LBKHS,
            kv.mixed(held.numbers * held.scales_LBK1S, 3),
            as_they_are.values * as_they_are.scales,
        )
    ]
    off, off_as_they_are = (np.square(one - scores[0]).mean() for one in scores[1:])
    assert off < off_as_they_are / 4, (off, off_as_they_are)


def test_logits_are_near_those_of_a_cache_in_float32(tiny):
    ids_BT = jnp.asarray(np.random.default_rng(3).integers(3, 259, (3, 24)))
    segments_BT = jnp.ones_like(ids_BT).at[1, 9:].set(0)
    _, cache = decode.prefill(tiny.weights, tiny.config, FLOAT32, ids_BT, segments_BT, max_len=40)
    held = kv.in_form_of(cache, kv.empty(cache.keys[0].shape, "float32", FORM))
    count_B = jnp.array([4, 2, 0])
    found = []
    for one in (cache, held):
        read, longer = decode.extend(tiny.weights, tiny.config, FLOAT32, one, ids_BT[:, :4], count_B, reach=32)
        next_BV, _ = decode.decode_step(tiny.weights, tiny.config, FLOAT32, longer, ids_BT[:, 5], longer.lengths_B)
        found.append((read[:2], next_BV))  # nothing was read of the last row
    for one, other in zip(*found, strict=True):
        off = jnp.abs(one[:, :259] - other[:, :259]).max()
        assert 0 < off < NEAR, off


def test_the_engine_answers_as_the_sampler_does_and_the_model_has_another_name(tiny, in_8_bits, serving):
    assert in_8_bits.sha256 not in (tiny.loaded().sha256, quantised(tiny.loaded(), "int8").sha256)
    assert serving._rows._state.cache.keys[0].numbers.dtype == jnp.int8
    for text, changes in (("hello", {"n": 3}), ("moon", {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 40})):
        one = ask(tiny, text, text, **changes)
        assert answers(serving, one) == sampled(in_8_bits, text, one)


def test_what_was_read_before_gives_the_answers_of_what_is_read_anew(tiny, in_8_bits, serving, batching):
    forgets = Engine(in_8_bits, batching=dataclasses.replace(batching, kept_mb=0.0))
    ids: tuple[int, ...] = ask(tiny, "abcdefgh" * 4, "p").ids
    for turn in range(2):
        before = serving.figures().kept_tokens
        ones = [ask(tiny, "a", f"turn {turn} {k}", ids=(*ids, *range(5, 9 + k)), n=2) for k in range(2)]
        assert [answers(serving, one) for one in ones] == [answers(forgets, one) for one in ones]
        assert serving.figures().kept_tokens - before >= len(ids) // CHUNK * CHUNK
        ids = (*ids, *range(20, 40))
    forgets.close()


def test_the_answers_do_not_depend_on_the_mesh(tiny, in_8_bits, serving, batching):
    mesh = mesh_axes.make_mesh(MeshConfig(data=2, fsdp=2), jax.devices()[:4])
    cut = families.weight_shardings(tiny.config, families.of(tiny.config).KIND, mesh)
    model = dataclasses.replace(in_8_bits, mesh=mesh, weights=jax.device_put(tiny.weights, cut))
    engine = Engine(model, batching=batching)
    keys = engine._rows._state.cache.keys[0]
    assert all(one.sharding.shard_shape(one.shape)[1] == keys.shape[1] // 4 == 1 for one in keys)
    for text in ("abc" * 8, "abc" * 9):
        one = ask(tiny, text, text, n=2)
        assert answers(engine, one) == answers(serving, one)
    engine.close()


def test_no_step_makes_a_cache_of_floats(tiny):
    """What decodes reads whole numbers: no array as large as the cache of all layers is made of them."""
    state = jax.eval_shape(lambda: slots.empty(tiny.config, FLOAT32, 4, 4096, 8, None, FORM))
    draw = slots.Draw(0.9, 0.95, 0, (2,))
    weights = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, tiny.weights))
    lowered = slots.advance.lower(
        weights, state, np.int32(1), config=tiny.config, compute=FLOAT32, draw=draw, mesh=None
    )
    L, R, K, H = tiny.config.num_layers, 4, tiny.config.num_kv_heads, tiny.config.head_dim
    text = lowered.as_text()
    assert f"tensor<{L}x{R}x{K}x{H}x4096xi8>" in text
    assert f"tensor<{L}x{R}x{K}x{H}x4096xf32>" not in text and f"tensor<{L}x{R}x{K}x4096x{H}xf32>" not in text
