"""Kernels chosen by config: what they compute, and what is refused."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tigerjax.config import ComputeConfig, RopeConfig
from tigerjax.errors import ConfigError
from tigerjax.model import attention, rope

# Both round probabilities and the output to bfloat16 (2^-8 each), over values of size 1.
BFLOAT16 = 2e-2


@pytest.fixture
def qkv():
    rng = np.random.default_rng(0)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.bfloat16)

    return draw(2, 9, 6, 8), draw(2, 9, 3, 8), draw(2, 9, 3, 8)


REFERENCE = ComputeConfig(attention="reference", remat="none", dtype="bfloat16", loss_chunk_tokens=8)
CUDNN = dataclasses.replace(REFERENCE, attention="cudnn")
SEGMENTS_BT = jnp.asarray([[1, 1, 1, 2, 2, 2, 2, 0, 0], [1] * 9])


WINDOWS = pytest.mark.parametrize("window", [None, 3])


@WINDOWS
def test_the_cudnn_call_has_the_mask_and_head_groups_of_the_reference(qkv, monkeypatch, window):
    """The same call through XLA: cuDNN itself needs a GPU, but mask, scale and groups are arguments."""
    monkeypatch.setattr(attention, "platform", lambda: "gpu")
    call = jax.nn.dot_product_attention

    @functools.wraps(call)
    def through_xla(*args, implementation, **kwargs):
        assert implementation == "cudnn"
        return call(*args, implementation="xla", **kwargs)

    monkeypatch.setattr(jax.nn, "dot_product_attention", through_xla)
    got = attention.attend(*qkv, SEGMENTS_BT, compute=CUDNN, window=window)
    want = attention.attend(*qkv, SEGMENTS_BT, compute=REFERENCE, window=window)
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), atol=BFLOAT16)


@pytest.mark.gpu
@WINDOWS
def test_cudnn_equals_the_reference(qkv, window):
    got = attention.attend(*qkv, SEGMENTS_BT, compute=CUDNN, window=window)
    want = attention.attend(*qkv, SEGMENTS_BT, compute=REFERENCE, window=window)
    np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), atol=BFLOAT16)


def test_cudnn_in_float32_is_refused(qkv):
    with pytest.raises(ConfigError, match="computes in bfloat16, not float32"):
        attention.attend(*(a.astype(jnp.float32) for a in qkv), SEGMENTS_BT, compute=CUDNN)


def test_rotation_at_position_257_is_not_that_of_256_in_bfloat16():
    x_BTNH = jnp.ones((1, 1, 1, 4), jnp.bfloat16)

    def at(p):
        return np.asarray(rope.rope(x_BTNH, jnp.full((1, 1), p), base=731.0, scaling=RopeConfig()), np.float32)

    assert np.abs(at(257) - at(256)).max() > 0.4


@pytest.mark.parametrize(("kernel", "devices"), [("splash", "TPUs"), ("cudnn", "NVIDIA GPUs")])
def test_kernels_for_other_devices_are_refused_on_a_cpu(qkv, kernel, devices):
    compute = dataclasses.replace(REFERENCE, attention=kernel)
    with pytest.raises(ConfigError, match=f"attention={kernel} is a kernel for {devices}, and this is a cpu; set it"):
        attention.attend(*qkv, SEGMENTS_BT, compute=compute)
