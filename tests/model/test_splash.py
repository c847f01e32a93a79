"""The splash kernel, interpreted on CPU: equal to the reference, forward and backward, on one device and on meshes."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import CausalMask, MultiHeadMask
from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import process_mask

from tigerjax import mesh
from tigerjax.config import ComputeConfig, MeshConfig, SplashConfig
from tigerjax.errors import ConfigError
from tigerjax.model import attention, splash_blocks, stack
from tigerjax.plan import topology

# float32: the kernel adds the same products block by block
SAME_MATHS = 1e-5
B, T, N, K, H = 4, 256, 4, 2, 128
BLOCKS = SplashConfig(
    block_q=128, block_kv=256, block_kv_compute=128, block_q_dkv=128, block_kv_dkv=128, block_kv_dkv_compute=128,
    block_q_dq=128, block_kv_dq=256, interpret=True,
)  # fmt: skip
REFERENCE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=8)
SPLASH = dataclasses.replace(REFERENCE, attention="splash", splash=BLOCKS)
FUSED = dataclasses.replace(SPLASH, splash=dataclasses.replace(BLOCKS, fused_backward=True))
WIDE = dataclasses.replace(FUSED, splash=dataclasses.replace(FUSED.splash, kernel="wide", block_kv_dkv=256))
WIDE_OF_128_KEYS = dataclasses.replace(WIDE, splash=dataclasses.replace(WIDE.splash, block_kv=128, block_kv_dkv=128))


@pytest.fixture(scope="module")
def inputs():
    """q, k, v, weights of the output, segment ids: a row of one segment, three of several and padding."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    ids_BT = np.ones((B, T), np.int32)
    ids_BT[1] = np.repeat([1, 2, 3, 0], [100, 28, 90, 38])
    ids_BT[2] = np.repeat([1, 2], [7, 249])
    ids_BT[3] = 0
    return draw(B, T, N, H), draw(B, T, K, H), draw(B, T, K, H), draw(B, T, N, H), jnp.asarray(ids_BT)


def out_and_gradients(compute, q_BTNH, k_BTKH, v_BTKH, w_BTNH, ids_BT, window=None):
    def summed(q_BTNH, k_BTKH, v_BTKH):
        out_BTNH = attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=compute, window=window)
        return jnp.sum(out_BTNH * w_BTNH), out_BTNH

    (_, out_BTNH), gradients = jax.value_and_grad(summed, (0, 1, 2), has_aux=True)(q_BTNH, k_BTKH, v_BTKH)
    return out_BTNH, *gradients


@pytest.fixture(scope="module")
def expected(inputs):
    return jax.jit(functools.partial(out_and_gradients, REFERENCE))(*inputs)


def assert_close(got, want):
    for a, b in zip(got, want, strict=True):
        assert np.isfinite(a).all()
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= SAME_MATHS * max(1.0, np.abs(b).max())


@pytest.mark.parametrize("compute", [SPLASH, FUSED, WIDE], ids=["two backward kernels", "one", "wide"])
def test_splash_equals_the_reference_forward_and_backward_with_segments_and_head_groups(inputs, expected, compute):
    assert_close(jax.jit(functools.partial(out_and_gradients, compute))(*inputs), expected)


def test_an_odd_number_of_rows_passes_as_twice_as_many_of_half_the_heads_and_equals_the_reference(inputs, expected):
    for rows in (slice(1, 2), slice(0, 3)):
        got = jax.jit(functools.partial(out_and_gradients, SPLASH))(*(array[rows] for array in inputs))
        assert_close(got, [array[rows] for array in expected])


def test_a_window_is_the_reference_s_forward_and_backward(inputs):
    """It ends inside of blocks, and leaves whole blocks out."""
    for window in (1, 100):
        got, wide, want = (
            jax.jit(functools.partial(out_and_gradients, c, window=window))(*inputs) for c in (SPLASH, WIDE, REFERENCE)
        )
        assert_close(got, want)
        assert_close(wide, want)


@pytest.mark.parametrize("compute", [SPLASH, WIDE], ids=["jax", "wide"])
def test_rows_and_heads_split_over_a_mesh_equal_the_reference(inputs, expected, compute):
    devices = mesh.make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    heads = mesh.sharding(devices, "batch", None, "act_heads", None)
    placed = [*jax.device_put(inputs[:4], heads), jax.device_put(inputs[4], mesh.sharding(devices, "batch", None))]
    with jax.set_mesh(devices):
        got = jax.jit(functools.partial(out_and_gradients, compute))(*placed)
    assert got[0].addressable_shards[0].data.shape == (B // 4, T, N // 2, H)
    assert_close(got, expected)


@pytest.mark.parametrize(
    ("compute", "sequence", "window"),
    [(FUSED, 4, None), (WIDE, 4, None), (WIDE_OF_128_KEYS, 2, None), (WIDE_OF_128_KEYS, 2, 60)],
    ids=["jax", "wide", "wide, keys that a share does not read", "wide, keys before the window of a share too"],
)
def test_rows_cut_along_their_length_equal_the_reference(inputs, compute, sequence, window):
    """Two rows of 512 tokens. In four shares each, a device has 128 queries, the smallest block. In two, the second
    share has chunks 1 and 2 of four, and reads no key of chunk 3, with a window of 60 none of 0 either."""
    devices = mesh.make_mesh(MeshConfig(fsdp=2, sequence=sequence, tensor=4 // sequence))
    arrays = [jnp.reshape(a, (B // 2, 2 * T, *a.shape[2:])) for a in inputs]
    want = jax.jit(functools.partial(out_and_gradients, REFERENCE, window=window))(*arrays)

    def cut(*arrays):
        results = out_and_gradients(compute, *(mesh.balanced(a) for a in arrays), window=window)
        return [mesh.in_row_order(a) for a in results]

    with jax.set_mesh(devices):
        assert_close(jax.jit(cut)(*arrays), want)


def test_the_wide_kernels_in_bfloat16_are_as_close_to_float32_as_those_of_jax(inputs, expected):
    """Keys, queries and probabilities have 8 bits in both; ids far apart differ in their high bits alone."""
    *arrays, ids_BT = inputs
    half = [*(a.astype(jnp.bfloat16) for a in arrays), jnp.where(ids_BT == 1, 2**30 + 2, ids_BT)]
    results = [jax.jit(functools.partial(out_and_gradients, c))(*half) for c in (FUSED, WIDE)]
    for jaxs, ours, want in zip(*results, expected, strict=True):
        far, near = (np.abs(np.asarray(a, np.float32) - np.asarray(want)).max() for a in (jaxs, ours))
        assert near <= 1.5 * far and near <= 0.02 * np.abs(want).max()


@pytest.mark.tpu
@pytest.mark.parametrize(("remat", "runs"), [("save_attention", 1), ("full", 2)])
def test_the_backward_pass_runs_the_wide_forward_kernel_again_only_if_its_output_is_not_kept(remat, runs):
    """Compiled for one device of a v6e, in bfloat16; two layers, since only a scan keeps what they compute apart."""
    where = topology.Topology(chip=topology.CHIPS["v6e"], shape=(1, 1))
    compute = dataclasses.replace(WIDE, splash=dataclasses.replace(WIDE.splash, interpret=False))
    q, k = (jax.ShapeDtypeStruct((2, 512, heads, H), jnp.bfloat16) for heads in (N, K))
    ids_BT = jax.ShapeDtypeStruct((2, 512), jnp.int32)

    def summed(q, k, v, ids_BT):
        def block(w, q):
            return attention.attend(q, k * w, v, ids_BT, compute=compute)

        return stack.scan_layers(block, jnp.ones(2, jnp.bfloat16), q, remat=remat).astype("float32").sum()

    devices = mesh.make_mesh(MeshConfig(), topology.describe(where)[:1])
    with jax.default_matmul_precision("bfloat16"):  # the suite's "highest" asks for float32
        lowered = mesh.in_mesh(devices, jax.jit(jax.grad(summed, (0, 1, 2))).lower)(q, k, k, ids_BT)
    calls = [line for line in lowered.compile().as_text().splitlines() if "custom-call(" in line and "splash" in line]
    assert sum("splash_wide_fwd" in line.split("=")[0] for line in calls) == runs
    assert sum("splash_wide_dkv" in line.split("=")[0] for line in calls) == 1


def test_the_wide_kernels_are_refused_without_the_fused_backward_pass_for_narrow_heads_and_for_too_many_queries(inputs):
    with pytest.raises(
        ConfigError, match=r"kernel='wide' has one backward kernel; set compute\.splash\.fused_backward"
    ):
        dataclasses.replace(BLOCKS, kernel="wide")
    q_BTNH, k_BTKH, v_BTKH, _, ids_BT = inputs
    with pytest.raises(ConfigError, match=r"kernel='wide' needs heads of a multiple of 128; choose 'jax'"):
        attention.attend(*(a[..., :64] for a in (q_BTNH, k_BTKH, v_BTKH)), ids_BT, compute=WIDE)
    long = (jax.ShapeDtypeStruct((1, 2**16, heads, 128), "bfloat16") for heads in (2, 1, 1))
    with pytest.raises(ConfigError, match=r"65536 queries .* which holds those of 32768; cut rows by mesh\.sequence"):
        jax.eval_shape(
            functools.partial(attention.attend, compute=WIDE), *long, jax.ShapeDtypeStruct((1, 2**16), "int32")
        )


@pytest.mark.parametrize("keys_outside", [False, True])
@pytest.mark.parametrize(("shares", "window"), [(1, None), (2, None), (8, None), (1, 300), (4, 300)])
def test_the_steps_of_the_wide_kernels_are_the_pairs_of_blocks_with_an_element(shares, window, keys_outside):
    """And each sweep, and each block of queries, has one first and one last step. Every block of keys has a sweep."""
    length = 2048
    with jax.set_mesh(mesh.make_mesh(MeshConfig(sequence=shares, fsdp=8 // shares))):
        place_PT = mesh.balanced_places(length)
    steps_PL = splash_blocks.steps(place_PT, window, 128, 256, keys_outside=keys_outside)
    for places, words in zip(place_PT, steps_PL, strict=True):
        pairs = splash_blocks.reads(places[:, None], np.arange(length), window=window)
        reads = pairs.reshape(len(places) // 128, 128, -1, 256).any(axis=(1, 3))
        steps = words[: np.flatnonzero(words & 31)[-1] + 1]  # the rest has no flags
        query, key = splash_blocks.unpacked(steps)
        outer = key if keys_outside else query
        assert (np.diff(outer) >= 0).all()
        np.testing.assert_array_equal(np.unique(outer), np.arange(reads.shape[keys_outside]))
        runs = (steps & splash_blocks.RUNS) != 0
        computed = np.zeros_like(reads)
        computed[query[runs], key[runs]] = True
        assert np.count_nonzero(runs) == np.count_nonzero(reads)
        np.testing.assert_array_equal(computed, reads)
        for blocks, first, last in (
            (outer, splash_blocks.FIRST, splash_blocks.LAST),
            (query, splash_blocks.FIRST_OF_QUERIES, splash_blocks.LAST_OF_QUERIES),
        ):
            for block in np.unique(blocks):
                visits = np.flatnonzero(blocks == block)
                np.testing.assert_array_equal(np.flatnonzero((steps[visits] & first) != 0), [0])
                np.testing.assert_array_equal(np.flatnonzero((steps[visits] & last) != 0), [len(visits) - 1])


@pytest.mark.parametrize(("shares", "window"), [(1, None), (2, None), (8, None), (1, 300), (4, 300)])
def test_the_blocks_that_are_computed_are_those_with_an_element_and_each_share_has_as_many(shares, window):
    """Against the whole square, and for one share against the masks that JAX makes element by element."""
    length = 2048
    with jax.set_mesh(mesh.make_mesh(MeshConfig(sequence=shares, fsdp=8 // shares))):
        place_PT = mesh.balanced_places(length)
        np.testing.assert_array_equal(mesh.in_row_order(jnp.asarray(place_PT.reshape(1, -1)))[0], np.arange(length))
    for wide in (128, 256):
        blocks = dataclasses.replace(BLOCKS, block_kv=wide, block_kv_dkv=wide)
        forward, _, backward = splash_blocks.mask_infos(place_PT, blocks, window)
        for share, places in enumerate(place_PT):
            pairs = splash_blocks.reads(places[:, None], np.arange(length), window=window)
            reads = pairs.reshape(len(places) // 128, 128, -1, wide).any(axis=(1, 3))
            assert reads.sum() == forward.block_mask[share].sum() == backward.block_mask[share].sum()
            if wide == 128 and window is None:
                assert reads.sum() == (16 // shares) * 17 / 2
            for q, row in enumerate(reads):
                runs = forward.block_mask[share, 0, q] > 0
                np.testing.assert_array_equal(forward.data_next[share, 0, q][runs], np.flatnonzero(row))
            for k, column in enumerate(reads.T):
                runs = backward.block_mask[share, 0, :, k] > 0
                np.testing.assert_array_equal(backward.data_next[share, 0, :, k][runs], np.flatnonzero(column))
    if (shares, window) == (1, None):
        theirs, _ = process_mask(MultiHeadMask([CausalMask((length, length))]), (128, 256))
        np.testing.assert_array_equal(theirs.block_mask > 0, forward.block_mask[0])
        np.testing.assert_array_equal(theirs.data_next, forward.data_next[0])


def test_inside_a_region_that_is_manual_over_stage_it_equals_the_reference(inputs, expected):
    devices = mesh.make_mesh(MeshConfig(stage=2, sequence=2, tensor=2))
    P = jax.sharding.PartitionSpec
    compute = dataclasses.replace(SPLASH, remat="save_attention")

    @functools.partial(jax.shard_map, axis_names={"stage"}, in_specs=(P(),) * 5, out_specs=P(), check_vma=False)
    def stages(q_BTNH, k_BTKH, v_BTKH, w_BTNH, ids_BT):
        def block(w, qkv):
            out_BTNH = attention.attend(*(mesh.balanced(a) for a in (*qkv, ids_BT)), compute=compute)
            return (mesh.in_row_order(out_BTNH), *qkv[1:])

        def summed(*qkv):
            out_BTNH = stack.rematerialise(block, compute.remat)(None, qkv)[0]
            return jnp.sum(out_BTNH * w_BTNH), out_BTNH

        (_, out_BTNH), gradients = jax.value_and_grad(summed, (0, 1, 2), has_aux=True)(q_BTNH, k_BTKH, v_BTKH)
        return out_BTNH, *gradients

    with jax.set_mesh(devices):
        assert_close(jax.jit(stages)(*inputs), expected)


def test_rows_that_blocks_do_not_divide_and_blocks_that_lanes_do_not_are_refused(inputs):
    q_BTNH, k_BTKH, v_BTKH, _, ids_BT = (a[:, :192] for a in inputs)
    with pytest.raises(ConfigError, match=r"rows of 192 tokens are no multiple of compute\.splash\.block_q=128"):
        attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=SPLASH)
    with pytest.raises(ConfigError, match=r"splash\.block_q=200 must be a multiple of the TPU's 128 lanes"):
        dataclasses.replace(BLOCKS, block_q=200)
    with pytest.raises(ConfigError, match=r"splash\.block_q=100 must be a whole number at least 128"):
        dataclasses.replace(BLOCKS, block_q=100)
    with pytest.raises(ConfigError, match=r"block_kv=256 is no multiple of block_kv_compute=384"):
        dataclasses.replace(BLOCKS, block_kv_compute=384)


def test_a_kernel_is_fitted_to_rows_of_any_length():
    """Inference pads to buckets of 32 tokens and more, and the blocks of a training config are larger."""
    large = dataclasses.replace(SPLASH, splash=SplashConfig())
    assert attention.fitting(large, 4096) is large and attention.fitting(REFERENCE, 100) is REFERENCE
    assert attention.fitting(large, 64).attention == attention.fitting(large, 200).attention == "reference"
    for length in (128, 256, 384, 768, 1536):
        fitted = attention.fitting(large, length)
        assert fitted.attention == "splash" and not any(length % block for block in fitted.splash.blocks().values())


def test_a_fitted_kernel_equals_the_reference(inputs):
    q_BTNH, k_BTKH, v_BTKH, _, ids_BT = (a[:, :128] for a in inputs)
    wide = dataclasses.replace(SPLASH, splash=SplashConfig(interpret=True))
    with pytest.raises(ConfigError, match="rows of 128 tokens are no multiple"):
        attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=wide)
    got = attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=attention.fitting(wide, 128))
    want = attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=REFERENCE)
    np.testing.assert_allclose(got, want, atol=SAME_MATHS)
