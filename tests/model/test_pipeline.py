"""The pipeline: its schedule in numbers, and its loss and gradients beside the scan's, on 8 devices."""

import collections
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax import mesh
from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig, SplashConfig
from tigerjax.errors import ConfigError
from tigerjax.model import decoder, stack
from tigerjax.model.layers import init
from tigerjax.model.pipeline import LayerOrder, Pipeline, Schedule

CONFIG = ModelConfig(
    num_layers=8,
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
ROWS, LENGTH = 8, 12
# float32 sums in another order, relative to the largest value of each array.
SAME_MATHS = 1e-5

SCHEDULES = [
    Schedule(stages=S, microbatches=M, rounds=V) for S, M, V in [(4, 4, 1), (4, 8, 1), (4, 4, 5), (2, 6, 3), (1, 2, 2)]
]


@pytest.mark.parametrize("plan", SCHEDULES, ids=str)
def test_every_microbatch_passes_every_round_of_every_stage_one_tick_after_the_one_before(plan):
    done = {}  # (microbatch, round, stage) -> tick
    for t in range(plan.ticks):
        for s in range(plan.stages):
            if 0 <= (u := plan.item(t, s)) < plan.items:
                place = (plan.microbatch(u), plan.round(u), s)
                assert place not in done
                done[place] = t
    assert len(done) == plan.microbatches * plan.rounds * plan.stages
    for (m, v, s), t in done.items():
        if (v, s) != (0, 0):
            before = (m, v, s - 1) if s else (m, v - 1, plan.stages - 1)
            assert t == done[before] + 1, (m, v, s)


@pytest.mark.parametrize("plan", SCHEDULES, ids=str)
def test_the_bubble_counted_in_ticks_is_the_one_of_the_docstring(plan):
    S, M, V = plan.stages, plan.microbatches, plan.rounds
    for item in (plan.item, plan.item_back):
        idle = sum(not 0 <= item(t, s) < plan.items for t in range(plan.ticks) for s in range(S))
        assert idle / (S * plan.ticks) == pytest.approx((S - 1) / (V * M + S - 1), rel=1e-12)


def test_the_backward_schedule_is_the_forward_one_run_back():
    plan = Schedule(stages=4, microbatches=8, rounds=5)
    last = plan.ticks - 1
    assert all(plan.item_back(t, s) == plan.item(last - t, s) for t in range(plan.ticks) for s in range(4))


def test_layer_order_and_stage_order_are_inverse_and_cut_into_stages():
    order = LayerOrder(stages=2, rounds=3)
    w_L = {"a": np.arange(12)}
    staged = order.to_stages(w_L)
    np.testing.assert_array_equal(staged["a"], [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11])  # first half: stage 0's
    np.testing.assert_array_equal(order.to_layers(staged)["a"], w_L["a"])
    one_round = LayerOrder(stages=4, rounds=1)
    np.testing.assert_array_equal(one_round.to_stages(w_L)["a"], w_L["a"])


@pytest.fixture(scope="module")
def weights():
    """From numpy, several times the initial size, so that layers differ by much more than rounding."""
    rng = np.random.default_rng(0)
    shapes = nn.unbox(jax.eval_shape(lambda key: init(decoder.LanguageModel(CONFIG, COMPUTE), key), jax.random.key(0)))
    return jax.tree.map(lambda w: rng.normal(0.1, 0.3, w.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def batch():
    """tokens, positions, segment ids: packed differently from row to row, padding at the end of most."""
    rng = np.random.default_rng(1)
    tokens_BT = rng.integers(3, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32)
    segment_ids_BT, positions_BT = np.zeros((2, ROWS, LENGTH), np.int32)
    for row in range(ROWS):
        lengths = [2 + row % 5, 3, LENGTH - 5 - row % 5 - row % 3]
        at = 0
        for i, n in enumerate(lengths):
            segment_ids_BT[row, at : at + n], positions_BT[row, at : at + n] = i + 1, np.arange(n)
            at += n
    return tokens_BT, positions_BT, segment_ids_BT


def loss(model, weights, batch):
    """Sum of the next token's NLL over real tokens; a plain stand-in for train's loss."""
    log_probs = jax.nn.log_softmax(model.apply({"params": weights}, *batch))
    targets_BT = jnp.roll(batch[0], -1, axis=1)
    nll_BT = -jnp.take_along_axis(log_probs, targets_BT[..., None], axis=-1)[..., 0]
    return jnp.where(batch[2] > 0, nll_BT, 0).sum() / (batch[2] > 0).sum()


@pytest.fixture(scope="module")
def expected(weights, batch):
    return jax.jit(jax.value_and_grad(functools.partial(loss, decoder.LanguageModel(CONFIG, COMPUTE))))(weights, batch)


def assert_close(got, want):
    def close(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        assert np.abs(a - b).max() <= SAME_MATHS * np.abs(b).max(), jax.tree_util.keystr(path)

    jax.tree_util.tree_map_with_path(close, got, want)


def pipelined(weights, batch, degrees, microbatches, rounds, **compute):
    """Loss and gradients, these in layer order, of the pipeline on a mesh of 8 devices."""
    devices, order = mesh.make_mesh(MeshConfig(**degrees)), LayerOrder(stages=degrees["stage"], rounds=rounds)
    run = Pipeline(mesh=devices, microbatches=microbatches, rounds=rounds)
    model = decoder.LanguageModel(CONFIG, dataclasses.replace(COMPUTE, **compute), run)
    boxed = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
    shardings = nn.logical_to_mesh_sharding(nn.get_partition_spec(boxed), devices, mesh.logical_rules())
    placed = jax.device_put(weights | {"layers": order.to_stages(weights["layers"])}, shardings)
    rows = jax.device_put(batch, mesh.sharding(devices, "batch", "length"))
    with jax.set_mesh(devices), nn.logical_axis_rules(mesh.logical_rules()):
        value, gradient = jax.jit(jax.value_and_grad(functools.partial(loss, model)))(placed, rows)
    gradient = jax.device_get(gradient)
    return value, gradient | {"layers": order.to_layers(gradient["layers"])}


@pytest.mark.parametrize(
    ("degrees", "microbatches", "rounds", "remat"),
    [
        ({"stage": 2, "fsdp": 2, "tensor": 2}, 4, 2, "full"),
        ({"stage": 4, "fsdp": 2}, 4, 1, "save_attention"),
        ({"data": 2, "stage": 4}, 4, 2, "save_dots"),
        ({"stage": 2, "fsdp": 2, "data": 2}, 2, 4, "none"),
    ],
    ids=str,
)
def test_the_pipeline_equals_the_scan_in_loss_and_gradients(
    weights, batch, expected, degrees, microbatches, rounds, remat
):
    assert_close(pipelined(weights, batch, degrees, microbatches, rounds, remat=remat), expected)


def test_the_pipeline_runs_the_splash_kernel_inside(weights):
    """A kernel's own shard_map inside the pipeline's; interpreted, rows of 128 tokens, the smallest block."""
    blocks = dict.fromkeys([f.name for f in dataclasses.fields(SplashConfig) if f.name.startswith("block_")], 128)
    rng = np.random.default_rng(2)
    tokens_BT = rng.integers(3, CONFIG.vocab_size, (4, 128)).astype(np.int32)
    segment_ids_BT = np.repeat([[1] * 100 + [2] * 20 + [0] * 8], 4, axis=0).astype(np.int32)
    batch = tokens_BT, np.tile(np.arange(128, dtype=np.int32), (4, 1)), segment_ids_BT
    want = jax.jit(jax.value_and_grad(functools.partial(loss, decoder.LanguageModel(CONFIG, COMPUTE))))(weights, batch)
    splash = SplashConfig(**blocks, interpret=True)
    degrees = {"stage": 2, "fsdp": 2, "tensor": 2}
    got = pipelined(weights, batch, degrees, 2, 2, remat="save_attention", attention="splash", splash=splash)
    assert_close(got, want)


def primitives(jaxpr, inside=()):
    """(primitive, equation, the primitives around it) of every equation, inner jaxprs included."""
    for equation in jaxpr.eqns:
        yield equation.primitive.name, equation, inside
        for value in jax.tree.leaves(equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")):
            if hasattr(inner := getattr(value, "jaxpr", value), "eqns"):
                yield from primitives(inner, (*inside, equation.primitive.name))


def toy(stages, microbatches, rounds):
    """The pipeline's sum of squares of x + sin(x w) in 8 layers, for rows of 3 numbers; (mesh, function)."""
    devices = jax.make_mesh((1, stages, 1, 1, 1), mesh.AXES, devices=jax.devices()[:stages],
                            axis_types=(jax.sharding.AxisType.Auto,) * 5)  # fmt: skip

    def block(w, x):
        return x + jnp.sin(x @ w)

    run = Pipeline(mesh=devices, microbatches=microbatches, rounds=rounds)
    return devices, lambda w_L, x: jnp.sum(run(block, w_L, x, remat="full") ** 2)


def test_a_program_has_as_many_ticks_as_the_schedule_and_all_matrix_products_are_skipped_when_idle():
    devices, f = toy(4, 8, 2)
    w_L, x = jnp.ones((8, 3, 3)), jnp.ones((16, 3))
    with jax.set_mesh(devices):
        traced = list(primitives(jax.make_jaxpr(jax.grad(f, argnums=(0, 1)))(w_L, x).jaxpr))
    lengths = collections.Counter(eqn.params["length"] for name, eqn, _ in traced if name == "scan")
    plan = Schedule(stages=4, microbatches=8, rounds=2)
    assert plan.ticks == 19 and lengths[plan.ticks] == 2, lengths  # one forward, one backward
    around = [inside for name, _, inside in traced if name == "dot_general"]
    assert around and all("cond" in inside for inside in around)


def test_what_is_saved_is_one_input_of_each_layer_and_item_and_nothing_for_idle_ticks():
    devices, f = toy(4, 8, 2)
    w_L, x = jnp.ones((8, 3, 3)), jnp.ones((16, 3))
    with jax.set_mesh(devices):
        _, pullback = jax.eval_shape(lambda w_L, x: jax.vjp(f, w_L, x), w_L, x)
    # stages x items, layers of an item, rows of a microbatch
    saved = [leaf.shape for leaf in jax.tree.leaves(pullback) if leaf.shape[:1] == (4 * 16,)]
    assert saved == [(4 * 16, 1, 2, 3)]


def test_a_pipeline_that_does_not_divide_is_refused(weights, batch):
    devices = mesh.make_mesh(MeshConfig(stage=4, fsdp=2))

    def run(microbatches, rounds):
        runner: stack.StackRunner = Pipeline(mesh=devices, microbatches=microbatches, rounds=rounds)
        return decoder.LanguageModel(CONFIG, COMPUTE, runner).apply({"params": weights}, *batch)

    with pytest.raises(ConfigError, match=r"8 layers do not split over mesh\.stage=4 x pipeline\.rounds=3"):
        run(4, 3)
    with pytest.raises(ConfigError, match=r"6 microbatches do not fill 4 stages in turn; make .* k x 4"):
        run(6, 1)
    with pytest.raises(ConfigError, match="batch of 8 rows does not split into 8 microbatches over 2 groups"):
        run(8, 1)
