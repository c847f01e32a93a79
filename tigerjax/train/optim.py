"""The optimisers: functions from gradients to directions, which the step multiplies by minus the learning rate.

All of them first scale the gradients down to `clip_norm`, and add the decay of matrices last.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import tree_map_with_path as each
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from tigerjax.config import OptimConfig
from tigerjax.train.adam_8bit import Cut, scale_by_adam_8bit
from tigerjax.train.by_layer import by_layer

OF_HEADS = {"q": ((1,), (2, 3)), "k": ((1,), (2, 3)), "v": ((1,), (2, 3)), "o": ((1, 2), (3,))}
"""Axes of the weights [L, …] of attention that a product adds up, and axes that it makes."""
TO_RESIDUAL = ("down", "o")
"""Matrices of a layer whose last axis is D."""
TENSOR_SHARES = 8
"""Devices of mesh.tensor over which blocks of 8-bit means are split without traffic; `tigerjax plan --search` tries no
more of them."""

ADAM_RMS = 0.2
"""Of Muon's directions, as large as AdamW's are: Liu et al. 2025 (arXiv 2502.16982), equation 4. So both have one
learning rate."""
FACTORED_FROM = 128
"""Adafactor keeps means by row and column where both axes have so many entries, as in optax."""
LARGEST_RMS = 1.0
"""Of an update of Adafactor before the learning rate: d in Shazeer & Stern 2018 (arXiv 1804.04235), algorithm 4."""


class WeightMean(NamedTuple):
    """The running mean of the weights: float32, sharded as they are. It is the last part of the optimiser's state."""

    mean: Any


def make_optimizer(c: OptimConfig) -> optax.GradientTransformation:
    """Gradients to *directions*; the step multiplies them by -learning_rate(step).

    The rate stays outside so that the one that is logged is the one that was used. The gradients are first multiplied
    by min(1, clip_norm / norm), with the norm over all weights: Pascanu et al. 2013 (arXiv 1211.5063), algorithm 1. The
    decay is decoupled, direction + weight_decay * weight, both times the rate: Loshchilov & Hutter 2019 (arXiv
    1711.05101), algorithm 2. `KINDS` has the formula of each kind.
    """
    return optax.chain(
        optax.identity() if c.clip_norm is None else optax.clip_by_global_norm(c.clip_norm),
        KINDS[c.kind](c),
        optax.add_decayed_weights(c.weight_decay, mask=decay_mask),
        *([] if c.ema_decay is None else [_weight_mean()]),
    )


def decay_mask(weights: Any) -> Any:
    """True for matrices (two axes or more, the layer axis apart), False for norm scales, vectors and biases."""
    return each(_is_matrix, weights)


def averaged(c: OptimConfig, opt_state: Any, weights: Any) -> Any:
    """`opt_state` with the new weights in their running mean: mean + (1 - ema_decay) * (weights - mean).

    Kingma & Ba 2015 (arXiv 1412.6980), section 7.2, and torch's AveragedModel. The mean begins as the weights that the
    run starts from, so nothing has to be divided by 1 - ema_decay^t."""
    if c.ema_decay is None:
        return opt_state
    *others, held = opt_state
    share = 1 - c.ema_decay
    return (*others, WeightMean(jax.tree.map(lambda m, w: m + share * (w - m), held.mean, weights)))


def _weight_mean() -> optax.GradientTransformation:
    """Only the place of the mean in the state: directions pass, and `averaged` sees the weights after them."""

    def init(weights: Any) -> WeightMean:
        # A copy: the step donates weights and mean, which may not be one array.
        return WeightMean(jax.tree.map(jnp.copy, weights))

    return optax.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


def _adamw(c: OptimConfig) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps), by optax: Loshchilov & Hutter 2019 (arXiv 1711.05101), algorithm 2.

    m = beta1 m + (1 - beta1) g and v = beta2 v + (1 - beta2) g^2, divided by 1 - beta1^t and 1 - beta2^t: Kingma & Ba
    2015 (arXiv 1412.6980), algorithm 1.
    """
    assert c.beta2 is not None and c.eps is not None, "OptimConfig refuses it"
    return optax.scale_by_adam(b1=c.beta1, b2=c.beta2, eps=c.eps, mu_dtype=c.first_moment_dtype)


def _adamw_8bit(c: OptimConfig) -> optax.GradientTransformation:
    """`_adamw` with means in 8 bits: Dettmers et al. 2022 (arXiv 2110.02861), sections 2.1 and 2.2."""
    assert c.beta2 is not None and c.eps is not None, "OptimConfig refuses it"
    return scale_by_adam_8bit(b1=c.beta1, b2=c.beta2, eps=c.eps, cut_of=_cut)


def _muon(c: OptimConfig) -> optax.GradientTransformation:
    """Muon (Jordan et al. 2024) for the matrices of layers, by optax, in the size of AdamW's; AdamW for the rest.

    The direction of a matrix is U V^T of its mean gradient U S V^T, nearly: five Newton-Schulz iterations, times
    ADAM_RMS * sqrt(max(rows, columns)): Liu et al. 2025 (arXiv 2502.16982), equation 4. The heads of an attention
    matrix are taken together.
    """

    def sized(path: Any, direction: jax.Array) -> jax.Array:
        rows, columns = (math.prod(direction.shape[i] for i in side) for side in _axes_in_layer(path, direction))
        return direction * (ADAM_RMS * math.sqrt(max(rows, columns)))

    one_layer = optax.chain(
        scale_by_muon(
            beta=c.muon_momentum,
            mu_dtype=c.first_moment_dtype,
            weight_dimension_numbers=functools.partial(each, _axes_in_layer),
        ),
        optax.stateless(lambda updates, _: each(sized, updates)),
    )

    def labels(weights: Any) -> Any:
        return each(lambda path, w: "muon" if _matrix_axes(path, w) else "adamw", weights)

    return optax.partition({"muon": _each_layer(one_layer), "adamw": _adamw(c)}, labels)


def _each_layer(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """`tx`, whose updates see one layer at a time, for stacked layers: the iterations of Muon need whole matrices, and
    the devices have room for those of a layer, not of all."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        muon, *others = state

        def one(gradient: Any, mu: Any) -> tuple[Any, Any]:
            direction, (after, *_) = tx.update(gradient, (muon._replace(mu=mu), *others))
            return direction, after.mu

        direction, mu = by_layer(one, updates, muon.mu)
        return direction, (muon._replace(count=optax.safe_increment(muon.count), mu=mu), *others)

    return optax.GradientTransformation(tx.init, update)


def _adafactor(c: OptimConfig) -> optax.GradientTransformation:
    """Shazeer & Stern 2018 (arXiv 1804.04235), algorithm 4 for matrices and 5 for vectors, by optax.

    The direction is u / max(1, rms(u) / LARGEST_RMS) in each layer, with u = g / sqrt(v). Of a matrix, v is r c /
    mean(r), where r and c are running means of g^2 over its rows and columns; their decay at update t is 1 - t^-0.8.
    With beta1 the running mean of the directions is taken. Their scaling by the size of a weight is left out: so
    peak_lr means what it means for AdamW.
    """
    momentum = optax.ema(c.beta1, debias=False, accumulator_dtype=c.first_moment_dtype)
    return optax.chain(
        optax.scale_by_factored_rms(min_dim_size_to_factor=FACTORED_FROM),
        optax.stateless(lambda updates, _: each(_clipped, updates)),
        *([momentum] if c.beta1 else []),
    )


KINDS: dict[str, Callable[[OptimConfig], optax.GradientTransformation]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "muon": _muon,
    "adafactor": _adafactor,
}
"""What makes the directions, by `OptimConfig.kind`."""


def _clipped(path: Any, update: jax.Array) -> jax.Array:
    """As `optax.clip_by_block_rms`, but each of the stacked layers by itself."""
    axes = tuple(range(int(_stacked(path)), update.ndim))
    rms = jnp.sqrt(jnp.mean(jnp.square(update), axis=axes, keepdims=True))
    return update / jnp.maximum(1.0, rms / LARGEST_RMS)


def _stacked(path: Any) -> bool:
    """Whether a weight leads with the axis of layers."""
    return getattr(path[0], "key", None) == "layers"


def _is_matrix(path: Any, leaf: Any) -> bool:
    bias = _name(path).endswith("_bias")  # of several heads, so it may have two axes
    return bool(leaf.ndim - _stacked(path) >= 2 and not bias)


def _name(path: Any) -> str:
    return str(getattr(path[-1], "key", ""))


def _matrix_axes(path: Any, w: Any) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """(Axes that a product adds up, axes that it makes) of a matrix of stacked layers; None for every other weight."""
    if not _stacked(path) or not _is_matrix(path, w):
        return None
    return ((1,), (2,)) if w.ndim == 3 else OF_HEADS.get(_name(path))


def _axes_in_layer(path: Any, w: Any) -> MuonDimensionNumbers:
    """The same for a matrix of one layer, whose axes begin with 0."""
    found = OF_HEADS[_name(path)] if w.ndim == 3 else ((1,), (2,))
    return MuonDimensionNumbers(*(tuple(axis - 1 for axis in side) for side in found))


def _cut(path: Any, w: Any) -> Cut | None:
    """How a weight's means are cut into blocks: along an axis that is not D, since fsdp cuts D into many small parts.
    Nothing splits H, and mesh.tensor the others. None for what stays in float32: vectors, which are small, and the
    embedding, where a block would hold rare tokens beside frequent ones [our choice]."""
    if not _is_matrix(path, w) or _name(path) == "embed":
        return None
    axis = w.ndim - 2 if _name(path) in TO_RESIDUAL else w.ndim - 1
    return Cut.of(w, axis, 1 if _name(path) in OF_HEADS else TENSOR_SHARES, stacked=_stacked(path))
