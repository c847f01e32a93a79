"""AdamW: clipping by global norm, decay on matrices only, warm-up and cosine."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from tigerjax.config import OptimConfig


def learning_rate(c: OptimConfig, step: jax.Array | int) -> jax.Array:
    """The learning rate of the update that follows `step` updates.

    It rises in a straight line to peak_lr at update `warmup_steps`, and then falls along a cosine to
    peak_lr * final_lr_fraction at the last update.
    """
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=c.peak_lr,
        warmup_steps=c.warmup_steps,
        decay_steps=c.total_steps,
        end_value=c.peak_lr * c.final_lr_fraction,
    )
    return jnp.asarray(schedule(step + 1), jnp.float32)  # + 1: the first update moves the weights


def decay_mask(weights: Any) -> Any:
    """True for matrices (two axes or more, the layer axis apart), False for norm scales, vectors and biases."""

    def is_matrix(path: tuple[Any, ...], leaf: Any) -> bool:
        stacked = getattr(path[0], "key", None) == "layers"
        bias = str(getattr(path[-1], "key", "")).endswith("_bias")  # of several heads, so it may have two axes
        return leaf.ndim - stacked >= 2 and not bias

    return jax.tree_util.tree_map_with_path(is_matrix, weights)


def make_optimizer(c: OptimConfig) -> optax.GradientTransformation:
    """Gradients to AdamW *directions*; the step multiplies them by -learning_rate(step).

    The rate stays outside so that the one that is logged is the one that was used. The decay is decoupled
    (Loshchilov & Hutter 2019): direction + weight_decay * weight, both times the rate.
    """
    return optax.chain(
        optax.identity() if c.clip_norm is None else optax.clip_by_global_norm(c.clip_norm),
        optax.scale_by_adam(b1=c.beta1, b2=c.beta2, eps=c.eps, mu_dtype=c.first_moment_dtype),
        optax.add_decayed_weights(c.weight_decay, mask=decay_mask),
    )
