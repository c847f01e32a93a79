"""Rotary embedding, of every kind that `RopeConfig` names.

A pair of features (i, i + H/2) turns by position x frequency: the Hugging Face pairing. A kind changes the frequencies,
and `yarn` also the length of the turned pair. The formulas are those of `transformers`, which its checkpoints follow.

`dynamic` alone depends on the length of a row, once that is past the original. Each sequence has the frequencies of its
own length, whatever it is packed or batched with. Reading token by token is then not the same as reading the row at
once: a key in a cache keeps the frequencies of the length at which it was written, as in `transformers`.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tigerjax.config import RopeConfig
from tigerjax.mesh import balanced, in_row_order

Array = np.ndarray


def rope(x_BTNH: jax.Array, positions_BT: jax.Array, *, base: float, scaling: RopeConfig) -> jax.Array:
    """Turns the pairs of every head by their position. Without scaling, by position * base**(-2i/H)."""
    return _rotate(x_BTNH, *angles(positions_BT, x_BTNH.shape[-1], base=base, scaling=scaling))


def angles(positions_BT: jax.Array, H: int, *, base: float, scaling: RopeConfig) -> tuple[jax.Array, jax.Array]:
    """sin_BT1H and cos_BT1H by which `rope` turns heads of H features: x * cos + (x with its halves swapped) * sin. The
    sign of the swapped half is in the sine."""
    # float32 throughout: bfloat16 rounds 257 to 256, but sin(257) is very different from sin(256).
    exponent_H = -jnp.arange(0, H, 2, dtype=jnp.float32) / H
    if scaling.kind == "default":
        freq_H: Any = base**exponent_H
    elif scaling.kind == "dynamic":
        first = _original(scaling)
        over_BT = jnp.maximum(_lengths(positions_BT) - first, 0).astype(jnp.float32) / first
        base_BT = base * (1 + scaling.factor * over_BT) ** (H / (H - 2))
        freq_H = (base_BT[:, :, None] ** exponent_H)[:, :, None]
    else:
        freq_H = frequencies(H, base, scaling, 1).astype(np.float32)
    angle_BT1H = positions_BT[:, :, None, None].astype(jnp.float32) * freq_H
    sin_BT1H, cos_BT1H = jnp.sin(angle_BT1H), jnp.cos(angle_BT1H)
    if (size := magnitude(scaling)) != 1:
        sin_BT1H, cos_BT1H = size * sin_BT1H, size * cos_BT1H
    return jnp.concatenate([-sin_BT1H, sin_BT1H], axis=-1), jnp.concatenate([cos_BT1H, cos_BT1H], axis=-1)


def depends_on_length(scaling: RopeConfig, length: int) -> bool:
    """Whether a row of `length` tokens has other frequencies than its own beginning."""
    return scaling.kind == "dynamic" and length > _original(scaling)


def of_tokens(positions_BT: jax.Array, segment_ids_BT: jax.Array, scaling: RopeConfig) -> jax.Array:
    """Positions for `rope` where the kind asks for lengths: those of padding (segment 0) are 0, so that no sequence is
    longer for the padding after it."""
    return jnp.where(segment_ids_BT > 0, positions_BT, 0) if scaling.kind == "dynamic" else positions_BT


def _lengths(positions_BT: jax.Array) -> jax.Array:
    """The length of the sequence that each token belongs to: its last position and one. A sequence of a packed row goes
    on as long as the positions grow."""
    positions_BT = in_row_order(positions_BT)
    B, T = positions_BT.shape
    last_BT = jnp.concatenate([positions_BT[:, 1:] <= positions_BT[:, :-1], jnp.ones((B, 1), bool)], axis=1)
    end_BT = jax.lax.cummin(jnp.where(last_BT, jnp.arange(T), T - 1), axis=1, reverse=True)
    return balanced(jnp.take_along_axis(positions_BT, end_BT, axis=1) + 1)


def frequencies(head_dim: int, base: float, scaling: RopeConfig, length: int) -> Array:
    """The turn per position of each pair, in float64, for a row of `length` tokens."""
    pair_H = np.arange(0, head_dim, 2) / head_dim
    freq_H = base**-pair_H
    if scaling.kind == "linear":
        return freq_H / scaling.factor
    if scaling.kind == "dynamic":
        over = max(length / _original(scaling) - 1, 0)
        raised: Array = (base * (1 + scaling.factor * over) ** (head_dim / (head_dim - 2))) ** -pair_H
        return raised
    if scaling.kind == "yarn":
        return _mixed(freq_H, scaling.factor, _yarn_share(head_dim, base, scaling))
    if scaling.kind == "llama3":
        turns_H = _original(scaling) * freq_H / (2 * math.pi)
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        return _mixed(freq_H, scaling.factor, np.clip((turns_H - low) / (high - low), 0, 1))
    return freq_H


def magnitude(scaling: RopeConfig) -> float:
    """What sine and cosine are multiplied by. It must not multiply the angle, which would turn every pair further."""
    if scaling.kind != "yarn":
        return 1.0
    given = scaling.attention_factor
    return yarn_magnitude(scaling.factor, 1.0) if given is None else given


def yarn_magnitude(factor: float, weight: float) -> float:
    """0.1 * weight * ln(factor) + 1, and 1 where nothing is stretched."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _mixed(freq_H: Array, factor: float, kept_H: Array) -> Array:
    """Frequencies of which the share `kept_H` stays, and the rest is divided by the factor."""
    mixed: Array = freq_H * kept_H + freq_H / factor * (1 - kept_H)
    return mixed


def _yarn_share(head_dim: int, base: float, scaling: RopeConfig) -> Array:
    """1 for the pairs that turn more than beta_fast times in the original length, 0 for those that turn less than
    beta_slow times, and a ramp over the number of the pair between them."""

    def pair(turns: float) -> float:
        return head_dim * math.log(_original(scaling) / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    if first == last:
        last += 0.001
    share: Array = 1 - np.clip((np.arange(head_dim // 2) - first) / (last - first), 0, 1)
    return share


def _original(scaling: RopeConfig) -> int:
    assert scaling.original_max_position_embeddings is not None  # RopeConfig refuses such a kind without it
    return scaling.original_max_position_embeddings


@jax.custom_vjp
def _rotate(x_BTNH: jax.Array, sin_BT1H: jax.Array, cos_BT1H: jax.Array) -> jax.Array:
    """x * cos + (x with its halves swapped) * sin."""
    H = x_BTNH.shape[-1]
    # A product with a permutation swaps the halves, and it is exact. For a split and a concatenation XLA:TPU pads each
    # half to a whole array and makes three kernels, which take three times as long as this one.
    swap_HH = jnp.roll(jnp.eye(H, dtype=x_BTNH.dtype), H // 2, axis=-1)
    swapped_BTNH = jnp.matmul(x_BTNH, swap_HH, precision="highest", preferred_element_type=jnp.float32)
    return (x_BTNH.astype(jnp.float32) * cos_BT1H + swapped_BTNH * sin_BT1H).astype(x_BTNH.dtype)


def _rotate_fwd(x_BTNH: jax.Array, sin_BT1H: jax.Array, cos_BT1H: jax.Array) -> tuple[jax.Array, Any]:
    return _rotate(x_BTNH, sin_BT1H, cos_BT1H), (sin_BT1H, cos_BT1H)


def _rotate_bwd(angles: Any, d_BTNH: jax.Array) -> tuple[jax.Array, None, None]:
    """The inverse rotation; positions have no gradient."""
    sin_BT1H, cos_BT1H = angles
    return jax.lax.optimization_barrier(_rotate(d_BTNH, -sin_BT1H, cos_BT1H)), None, None


_rotate.defvjp(_rotate_fwd, _rotate_bwd)
