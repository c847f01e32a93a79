"""The forward pass: shapes of weights, segments, padding, remat, dtypes, meshes, presets' sizes."""

import dataclasses
import functools
from typing import get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax import mesh
from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig, Remat
from tigerjax.model import decoder, reward, stack
from tigerjax.model.layers import init, logits

CONFIG = ModelConfig(
    num_layers=4,
    model_dim=24,
    mlp_dim=40,
    num_heads=8,
    num_kv_heads=4,
    head_dim=6,
    vocab_size=57,
    padded_vocab_size=64,
    rope_base=777.0,
    norm_eps=3e-4,
)
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=8)
MODEL = decoder.LanguageModel(CONFIG, COMPUTE)
ROWS, LENGTH = 8, 12
# float32 sums in another order, relative to the largest value.
SAME_MATHS = 1e-5
# bfloat16 keeps 8 bits: 2^-8 a rounding, a few of them over 4 layers, relative to the spread of the logits.
BFLOAT16 = 0.05


def draw(model, seed):
    """Weights from numpy, several times the initial size, so that logits differ by much more than rounding."""
    rng = np.random.default_rng(seed)
    shapes = nn.unbox(jax.eval_shape(lambda key: init(model, key), jax.random.key(0)))
    return jax.tree.map(lambda w: rng.normal(0.1, 0.3, w.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def weights():
    return draw(MODEL, 0)


@pytest.fixture(scope="module")
def batch():
    """tokens, positions, segment ids: two segments a row and padding at the end."""
    rng = np.random.default_rng(1)
    tokens_BT = rng.integers(3, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    segment_ids_BT = np.tile(np.repeat([1, 2, 0], [5, 4, 3]), (ROWS, 1)).astype(np.int32)
    positions_BT = np.tile(np.r_[0:5, 0:4, 0:3], (ROWS, 1)).astype(np.int32)
    return tokens_BT, positions_BT, segment_ids_BT


def loss(model, weights, batch):
    """Mean NLL of the next token over rows of real tokens; a plain stand-in for train's loss."""
    log_probs = jax.nn.log_softmax(model.apply({"params": weights}, *batch))
    targets_BT = jnp.roll(batch[0], -1, axis=1)
    nll_BT = -jnp.take_along_axis(log_probs, targets_BT[..., None], axis=-1)[..., 0]
    return jnp.where(batch[2] > 0, nll_BT, 0).sum() / (batch[2] > 0).sum()


@pytest.fixture(scope="module")
def expected(weights, batch):
    return jax.jit(jax.value_and_grad(lambda w: loss(MODEL, w, batch)))(weights)


@functools.partial(jax.jit, static_argnames=("model", "method"))
def forward(model, weights, batch, method=None):
    return model.apply({"params": weights}, *batch, method=method)


def assert_close(got, want):
    def close(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= SAME_MATHS * max(1.0, np.abs(b).max()), jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(close, got, want)


def test_weights_have_the_agreed_paths_shapes_and_dtype():
    shapes = jax.tree.map(
        lambda w: (w.shape, str(w.dtype)),
        nn.unbox(jax.eval_shape(lambda key: init(MODEL, key), jax.random.key(0))),
    )
    L, D, F, N, K, H, V = 4, 24, 40, 8, 4, 6, 64
    want = {
        "embed": (V, D),
        "layers": {
            "attn_norm": {"scale": (L, D)},
            "attn": {"q": (L, D, N, H), "k": (L, D, K, H), "v": (L, D, K, H), "o": (L, N, H, D)},
            "mlp_norm": {"scale": (L, D)},
            "mlp": {"gate": (L, D, F), "up": (L, D, F), "down": (L, F, D)},
        },
        "final_norm": {"scale": (D,)},
        "head": (D, V),
    }

    def is_shape(s):
        return isinstance(s, tuple)

    assert shapes == jax.tree.map(lambda s: (s, "float32"), want, is_leaf=is_shape)


def test_padding_of_the_vocabulary_gets_no_gradient_and_every_weight_gets_one(expected):
    _, gradients = expected
    assert not np.asarray(gradients["embed"])[CONFIG.vocab_size :].any()
    assert not np.asarray(gradients["head"])[:, CONFIG.vocab_size :].any()
    assert all(np.isfinite(g).all() and np.any(g) for g in jax.tree.leaves(gradients))


def test_logits_are_float32_and_minus_infinity_on_padding_columns(weights, batch):
    for dtype in ("float32", "bfloat16"):
        model = decoder.LanguageModel(CONFIG, dataclasses.replace(COMPUTE, dtype=dtype))
        logits_BTV = forward(model, weights, batch)
        assert logits_BTV.dtype == jnp.float32
        assert np.isneginf(logits_BTV[..., CONFIG.vocab_size :]).all()
        assert np.isfinite(logits_BTV[..., : CONFIG.vocab_size]).all()


def test_changing_another_segment_changes_logits_by_exactly_nothing(weights, batch):
    tokens_BT, positions_BT, segment_ids_BT = batch
    before = np.asarray(forward(MODEL, weights, batch))
    for segment in (0, 1, 2):
        inside = segment_ids_BT == segment
        other_BT = np.where(inside, (tokens_BT + 1) % CONFIG.vocab_size, tokens_BT)
        after = np.asarray(forward(MODEL, weights, (other_BT, positions_BT, segment_ids_BT)))
        np.testing.assert_array_equal(after[~inside], before[~inside])
        assert (after[inside] != before[inside]).any()


def test_changing_a_later_token_changes_no_earlier_logits(weights, batch):
    tokens_BT, positions_BT, _ = batch
    one_segment_BT = np.ones_like(tokens_BT)
    other_BT = tokens_BT.copy()
    other_BT[:, 6] = (other_BT[:, 6] + 1) % CONFIG.vocab_size
    before = np.asarray(forward(MODEL, weights, (tokens_BT, positions_BT, one_segment_BT)))
    after = np.asarray(forward(MODEL, weights, (other_BT, positions_BT, one_segment_BT)))
    np.testing.assert_array_equal(after[:, :6], before[:, :6])
    assert (after[:, 6:] != before[:, 6:]).any()


def test_a_packed_segment_has_the_logits_it_has_alone(weights, batch):
    tokens_BT, positions_BT, segment_ids_BT = batch
    packed = forward(MODEL, weights, batch)
    alone = forward(MODEL, weights, (tokens_BT[:, 5:9], positions_BT[:, 5:9], np.ones_like(segment_ids_BT[:, 5:9])))
    assert_close(packed[:, 5:9, : CONFIG.vocab_size], alone[..., : CONFIG.vocab_size])


def test_hidden_times_head_is_the_logits_and_carries_the_compute_dtype(weights, batch):
    x_BTD = forward(MODEL, weights, batch, method="hidden")
    got = logits(x_BTD, weights["head"], CONFIG)[..., : CONFIG.vocab_size]
    assert_close(got, forward(MODEL, weights, batch)[..., : CONFIG.vocab_size])
    low = decoder.LanguageModel(CONFIG, dataclasses.replace(COMPUTE, dtype="bfloat16"))
    x_BTD = forward(low, weights, batch, method="hidden")
    assert x_BTD.dtype == jnp.bfloat16 and x_BTD.shape == (ROWS, LENGTH, CONFIG.model_dim)


def test_bfloat16_activations_stay_near_float32_logits_and_give_float32_gradients(weights, batch):
    model = decoder.LanguageModel(CONFIG, dataclasses.replace(COMPUTE, dtype="bfloat16"))
    V, real = CONFIG.vocab_size, batch[2] > 0
    low = np.asarray(forward(model, weights, batch))[real][:, :V]
    full = np.asarray(forward(MODEL, weights, batch))[real][:, :V]
    assert 0 < np.sqrt(np.mean((low - full) ** 2)) <= BFLOAT16 * full.std()
    gradients = jax.eval_shape(jax.grad(lambda w: loss(model, w, batch)), weights)
    assert {str(g.dtype) for g in jax.tree.leaves(gradients)} == {"float32"}


@pytest.mark.parametrize("remat", [r for r in get_args(Remat) if r != "none"])
def test_remat_changes_neither_loss_nor_gradients(weights, batch, expected, remat):
    model = decoder.LanguageModel(CONFIG, dataclasses.replace(COMPUTE, remat=remat))
    assert_close(jax.jit(jax.value_and_grad(lambda w: loss(model, w, batch)))(weights), expected)


def test_each_remat_policy_keeps_what_its_name_says(weights, batch):
    """Residuals of the L layers, by shape. Kept in order: what a policy keeps, the next one keeps too; but save_kv_up
    computes the query again."""
    shapes = {
        "scores": (4, ROWS, 4, 2, LENGTH, LENGTH),
        "attention out": (4, ROWS, LENGTH, 8, 6),
        "key": (4, ROWS, LENGTH, 4, 6),
        "mlp hidden": (4, ROWS, LENGTH, 40),
    }
    counts = {}
    for remat in ("none", *stack.SAVED):
        model = decoder.LanguageModel(CONFIG, dataclasses.replace(COMPUTE, remat=remat))
        _, pullback = jax.eval_shape(lambda w, model=model: jax.vjp(lambda w: loss(model, w, batch), w), weights)
        kept = [leaf.shape for leaf in jax.tree.leaves(pullback)]
        counts[remat] = {what: kept.count(shape) for what, shape in shapes.items()}
    assert counts["none"]["scores"] and not any(counts[remat]["scores"] for remat in stack.SAVED)
    policies = ("full", "save_attention", "save_qkv", "save_residual", "save_kv_up", "save_up", "save_dots")
    # the query has the shape of the attention's output, the value that of the key
    assert [counts[r]["attention out"] for r in policies] == [0, 1, 2, 2, 1, 2, 2]
    assert [counts[r]["key"] for r in policies] == [0, 0, 2, 2, 2, 2, 2]
    assert [counts[r]["mlp hidden"] for r in policies] == [0, 0, 0, 0, 1, 1, 2]


@pytest.mark.parametrize(
    "degrees", [{"fsdp": 8}, {"fsdp": 2, "tensor": 4}, {"data": 2, "fsdp": 2, "tensor": 2}], ids=str
)
def test_every_mesh_gives_the_loss_and_gradients_of_one_device(weights, batch, expected, degrees):
    config = MeshConfig(**degrees)
    devices = mesh.make_mesh(config)
    boxed = jax.eval_shape(lambda key: init(MODEL, key), jax.random.key(0))
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), devices, mesh.logical_rules())
    placed = jax.device_put(weights, shardings)
    rows = jax.device_put(batch, mesh.sharding(devices, "batch", "length"))
    with jax.set_mesh(devices), nn.logical_axis_rules(mesh.logical_rules()):
        got = jax.jit(jax.value_and_grad(lambda w, b: loss(MODEL, w, b)))(placed, rows)
    q = placed["layers"]["attn"]["q"]
    assert q.addressable_shards[0].data.shape == (4, 24 // config.fsdp, 8 // config.tensor, 6)
    assert_close(got, expected)


def test_initial_weights_depend_on_the_key_only_and_layers_differ_and_padding_is_zero():
    other = decoder.LanguageModel(CONFIG, dataclasses.replace(COMPUTE, remat="full", dtype="bfloat16"))

    def trace(model):
        return str(jax.make_jaxpr(lambda key: nn.unbox(init(model, key)))(jax.random.key(0)))

    assert trace(other) == trace(MODEL)
    first = nn.unbox(jax.jit(lambda key: init(MODEL, key))(jax.random.key(0)))
    q = np.asarray(first["layers"]["attn"]["q"])
    assert (q[0] != q[1]).all() and abs(q.std() / 0.02 - 1) < 0.05
    assert not np.asarray(first["embed"])[CONFIG.vocab_size :].any() and np.asarray(first["embed"])[1].any()
    assert not np.asarray(first["head"])[:, CONFIG.vocab_size :].any() and np.asarray(first["head"])[:, 1].any()


def test_a_reward_model_is_the_trunk_with_a_float32_score_at_every_position(weights, batch):
    model = reward.RewardModel(CONFIG, COMPUTE)
    start = reward.from_language(weights, jax.random.key(7))
    assert start["layers"] is weights["layers"] and "head" not in start
    drawn = nn.unbox(jax.eval_shape(lambda key: init(model, key), jax.random.key(0)))
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, drawn)
    x_BTD = forward(MODEL, weights, batch, method="hidden")
    assert_close(forward(model, start, batch), np.asarray(x_BTD) @ np.asarray(start["score"]))
    low = reward.RewardModel(CONFIG, dataclasses.replace(COMPUTE, dtype="bfloat16"))
    scores_BT = forward(low, start, batch)
    assert scores_BT.dtype == jnp.float32 and scores_BT.shape == (ROWS, LENGTH)


def test_the_score_head_starts_with_variance_one_over_width_plus_one():
    drawn = reward.score_init(jax.random.key(0), (4096,))
    assert abs(float(drawn.var()) * 4097 - 1) < 0.1  # 4.5 standard errors of a variance of 4096 draws
