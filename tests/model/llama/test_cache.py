"""Prefill and decode against the full forward pass."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.config import ComputeConfig, ModelConfig
from tigerjax.errors import ConfigError
from tigerjax.model import cache, cache_write, decoder
from tigerjax.model import decode as reading
from tigerjax.model.layers import init

# float32: the same sums in another order, relative to the largest value.
SAME_MATHS = 1e-5
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=8)
CONFIG = ModelConfig(
    num_layers=3,
    model_dim=20,
    mlp_dim=44,
    num_heads=6,
    num_kv_heads=2,
    head_dim=10,
    vocab_size=57,
    padded_vocab_size=64,
    rope_base=777.0,
    norm_eps=3e-4,
)
LENGTHS = (7, 1, 4)
PROMPT_SLOTS, MAX_LEN, NEW = 9, 16, 5


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(3)
    shapes = nn.unbox(jax.eval_shape(lambda key: init(decoder.LanguageModel(CONFIG, COMPUTE), key), jax.random.key(0)))
    return jax.tree.map(lambda w: jnp.asarray(rng.normal(0.1, 0.3, w.shape), jnp.float32), shapes)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [rng.integers(3, CONFIG.vocab_size, n + NEW) for n in LENGTHS]


@pytest.fixture(scope="module")
def full_logits(weights, texts):
    """Of each text by itself, unpadded: a list of (n + NEW, V)."""
    forward = jax.jit(lambda w, *batch: decoder.LanguageModel(CONFIG, COMPUTE).apply({"params": w}, *batch))
    out = []
    for text in texts:
        tokens_BT = jnp.asarray(text)[None]
        positions_BT = jnp.arange(len(text))[None]
        out.append(forward(weights, tokens_BT, positions_BT, jnp.ones_like(tokens_BT))[0])
    return out


def prompts(texts, side):
    tokens_BT, segments_BT = np.zeros((2, len(texts), PROMPT_SLOTS), np.int32)
    for b, (text, n) in enumerate(zip(texts, LENGTHS, strict=True)):
        where = slice(0, n) if side == "right" else slice(PROMPT_SLOTS - n, PROMPT_SLOTS)
        tokens_BT[b, where], segments_BT[b, where] = text[:n], 1
    return jnp.asarray(tokens_BT), jnp.asarray(segments_BT)


@functools.partial(jax.jit, static_argnames="max_len")
def prefill(weights, tokens_BT, segments_BT, max_len=MAX_LEN):
    return reading.prefill(weights, CONFIG, COMPUTE, tokens_BT, segments_BT, max_len=max_len)


@jax.jit
def decode(weights, kv, token_B):
    return reading.decode_step(weights, CONFIG, COMPUTE, kv, token_B, kv.lengths_B)


def assert_close(got, want):
    assert np.abs(real(got) - real(want)).max() <= SAME_MATHS * np.abs(real(want)).max()


def real(logits):
    return np.asarray(logits)[..., : CONFIG.vocab_size]


@pytest.mark.parametrize("side", ["left", "right"])
def test_prefill_then_decode_equals_the_full_forward_on_prompts_of_different_lengths(weights, texts, full_logits, side):
    logits_BV, kv = prefill(weights, *prompts(texts, side))
    assert kv.lengths_B.tolist() == list(LENGTHS)
    for i in range(NEW):
        for b, n in enumerate(LENGTHS):
            assert_close(logits_BV[b], full_logits[b][n + i - 1])
        token_B = jnp.asarray([text[n + i] for text, n in zip(texts, LENGTHS, strict=True)])
        logits_BV, kv = decode(weights, kv, token_B)
    assert decode._cache_size() == 1
    assert np.all(np.isneginf(np.asarray(logits_BV)[:, CONFIG.vocab_size :]))


def test_layers_apart_give_what_a_stack_of_all_gives(weights, texts):
    apart = cache.unstack(weights)
    assert len(apart["layers"]) == CONFIG.num_layers
    found = [prefill(w, *prompts(texts, "right")) for w in (weights, apart)]
    assert [len(kv.keys) for _, kv in found] == [1, CONFIG.num_layers]
    token_B = jnp.asarray([text[n] for text, n in zip(texts, LENGTHS, strict=True)])
    after = [decode(w, kv, token_B) for w, (_, kv) in zip((weights, apart), found, strict=True)]
    for (one_BV, one), (other_BV, other) in (found, after):
        assert_close(other_BV, one_BV)
        for a, b in ((one.keys, other.keys), (one.values, other.values)):
            np.testing.assert_allclose(np.concatenate(a), np.concatenate(b), atol=1e-6)


def test_prompts_read_in_chunks_continue_as_prompts_read_at_once(weights, texts, full_logits):
    """Chunks of three tokens, the last one with padding, of rows that end at different chunks."""
    T, longest = 3, max(LENGTHS)
    room = (CONFIG.num_layers, len(texts), CONFIG.num_kv_heads)
    keys, values = jnp.zeros((*room, CONFIG.head_dim, MAX_LEN)), jnp.zeros((*room, MAX_LEN, CONFIG.head_dim))
    kv = cache.Cache((keys,), (values,), jnp.zeros(len(texts), jnp.int32))
    read = jax.jit(lambda *given: reading.extend(weights, CONFIG, COMPUTE, *given, reach=8))
    for at in range(0, longest, T):
        parts = [text[:n][at : at + T] for text, n in zip(texts, LENGTHS, strict=True)]
        tokens_BT = jnp.asarray([[*part, *[0] * (T - len(part))] for part in parts])
        logits_BV, kv = read(kv, tokens_BT, jnp.asarray([len(part) for part in parts]))
        for b, n in enumerate(LENGTHS):
            if at < n <= at + T:
                assert_close(logits_BV[b], full_logits[b][n - 1])
    assert kv.lengths_B.tolist() == list(LENGTHS)
    token_B = jnp.asarray([text[n] for text, n in zip(texts, LENGTHS, strict=True)])
    logits_BV, _ = decode(weights, kv, token_B)
    for b, n in enumerate(LENGTHS):
        assert_close(logits_BV[b], full_logits[b][n])


def test_a_cache_repeated_n_times_decodes_each_copy_as_its_prompt(weights, texts, full_logits):
    _, kv = prefill(weights, *prompts(texts, "right"))
    kv = cache.repeat(kv, 2)
    token_B = jnp.repeat(jnp.asarray([text[n] for text, n in zip(texts, LENGTHS, strict=True)]), 2)
    logits_BV, _ = decode(weights, kv, token_B)
    for row, b in enumerate([0, 0, 1, 1, 2, 2]):
        assert_close(logits_BV[row], full_logits[b][LENGTHS[b]])


def test_what_another_row_holds_changes_nothing(weights, texts):
    tokens_BT, segments_BT = prompts(texts, "right")
    one, _ = prefill(weights, tokens_BT, segments_BT)
    other, _ = prefill(weights, tokens_BT.at[0].set(5), segments_BT)
    np.testing.assert_array_equal(one[1:], other[1:])


def test_a_row_of_padding_is_finite_and_empty(weights):
    nothing_BT = jnp.zeros((1, 4), jnp.int32)
    logits_BV, kv = prefill(weights, nothing_BT, nothing_BT, max_len=4)
    assert np.isfinite(real(logits_BV)).all() and kv.lengths_B.tolist() == [0]


def test_a_prompt_longer_than_the_cache_is_refused(weights):
    nothing_BT = jnp.zeros((1, 4), jnp.int32)
    with pytest.raises(ConfigError, match="max_len=3 slots do not hold prompts of 4 tokens"):
        reading.prefill(weights, CONFIG, COMPUTE, nothing_BT, nothing_BT, max_len=3)


def test_decoding_never_copies_kv_to_every_query_head(weights):
    """No array of decode has S beside N heads but the scores (B, K, G, S) and their mask."""
    keys, values = jnp.zeros((3, 2, 2, 10, MAX_LEN)), jnp.zeros((3, 2, 2, MAX_LEN, 10))
    kv, token_B = cache.Cache((keys,), (values,), jnp.zeros(2, jnp.int32)), jnp.zeros(2, jnp.int32)
    text = str(jax.make_jaxpr(lambda kv: reading.decode_step(weights, CONFIG, COMPUTE, kv, token_B, kv.lengths_B))(kv))
    assert f"f32[2,2,10,{MAX_LEN}]" in text and f"f32[2,2,{MAX_LEN},10]" in text
    for copied in (f"6,10,{MAX_LEN}", f"6,{MAX_LEN},10", f"2,3,10,{MAX_LEN}", f"2,3,{MAX_LEN},10"):
        assert f"f32[2,{copied}]" not in text


def test_a_decode_step_writes_its_cache_in_place():
    """A copy of the whole cache in every layer took four fifths of a decode step on a CPU."""
    L, B, K, H, S = 3, 5, 2, 8, 4096
    k_LBKHS = jnp.zeros((L, B, K, H, S))
    new_LBKH, at_B = jnp.ones((L, B, K, H)), jnp.arange(B, dtype=jnp.int32)
    write = jax.jit(lambda old, new, at: cache_write.write(old, new, at, axis=4), donate_argnums=0)
    compiled = write.lower(k_LBKHS, new_LBKH, at_B).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < k_LBKHS.nbytes / 10
    written = np.asarray(compiled(k_LBKHS, new_LBKH, at_B))
    assert written.sum() == L * B * K * H and all((written[:, b, :, :, b] == 1).all() for b in range(B))


def test_a_decode_that_runs_in_a_loop_copies_no_cache(weights):
    """XLA:CPU copied every layer's cache twice a step, as long as nothing made the write wait for the reading."""
    apart, S, rows = cache.unstack(weights), 33, len(LENGTHS)
    K, H = CONFIG.num_kv_heads, CONFIG.head_dim
    kinds = jnp.zeros((1, rows, K, H, S)), jnp.zeros((1, rows, K, S, H))

    def steps(kv):
        def step(_, carried):
            kv, token_B = carried
            logits_BV, kv = reading.decode_step(apart, CONFIG, COMPUTE, kv, token_B, kv.lengths_B)
            return kv, jnp.argmax(logits_BV, -1)

        return jax.lax.fori_loop(0, 4, step, (kv, jnp.zeros(rows, jnp.int32)))

    keys, values = (tuple(jnp.copy(a) for _ in range(CONFIG.num_layers)) for a in kinds)
    kv = cache.Cache(keys, values, jnp.zeros(rows, jnp.int32))
    text = jax.jit(steps, donate_argnums=0).lower(kv).compile().as_text()
    shapes = ["f32[" + ",".join(map(str, a.shape)) + "]" for a in kinds]
    assert all(f"= {shape}" in text for shape in shapes)
    assert not [line for line in text.splitlines() for shape in shapes if f"= {shape}" in line and " copy(" in line]
