"""Losses of reinforcement learning: formulas on the log-probabilities of tokens, and the batch that they read.

Token t of an answer is drawn with probability pi(t), given the prompt and the tokens before it. pi_old is that of the
weights that drew the roll-out, computed by the trainer; pi_sampler is the same, computed by the sampler; pi_ref is that
of the reference. A(t) is the advantage, |o| the number of tokens of an answer, its end included. Logarithms are
natural.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tigerjax.config import GrpoConfig, PpoConfig, RlConfig
from tigerjax.data.rows import Batch

Sums = dict[str, jax.Array]


class PolicyBatch(NamedTuple):
    """B rows, each with a prompt and an answer to it. What stands at position t is about the token after it, and
    is 0 where that is no token of an answer in the loss."""

    rows: Batch
    """`weights_BT` is 1 where the target is a token of an answer in the loss, else 0."""
    old_BT: Any
    """float32 log pi_old, in nats."""
    correction_BT: Any
    """float32 pi_old / pi_sampler, at most `sampler_cap`; 1 where that is None."""
    advantage_BT: Any
    """float32 A."""
    reference_BT: Any = None
    """float32 log pi_ref, in nats; None without a reference."""
    value_BT: Any = None
    """float32 value of the roll-out's weights, in units of the reward; None without a value head."""
    return_BT: Any = None
    """float32 what the value should have been: A before normalisation, plus the value."""


class Shares(NamedTuple):
    """How much each token counts."""

    loss_BT: jax.Array
    """In the loss, before the division by `total`."""
    metric_BT: jax.Array
    """In the metrics; it sums to `total`."""
    total: jax.Array


def shares(c: RlConfig, mask_BT: jax.Array) -> Shares:
    """The shares of the tokens where `mask_BT` is 1, as `c.mean` says.

    answer: the mean over answers of 1/|o| sum_t (Shao et al. 2024, arXiv 2402.03300, equation 3). token: the mean over
    tokens (Yu et al. 2025, DAPO, arXiv 2503.14476, equation 8). longest: the mean over answers of 1/max_new_tokens
    sum_t (Liu et al. 2025, Dr. GRPO, arXiv 2503.20783, section 3.2).
    """
    length_B1 = jnp.sum(mask_BT, axis=1, keepdims=True)
    if c.mean == "token":
        return Shares(mask_BT, mask_BT, jnp.sum(mask_BT))
    each_BT = mask_BT / jnp.maximum(length_B1, 1.0)
    loss_BT = each_BT if c.mean == "answer" else mask_BT / c.max_new_tokens
    return Shares(loss_BT, each_BT, jnp.sum((length_B1 > 0).astype(jnp.float32)))


def ratios(c: RlConfig, logp_BT: jax.Array, old_BT: jax.Array, mask_BT: jax.Array) -> jax.Array:
    """pi / pi_old at each token, or for the whole answer (pi / pi_old)^(1/|o|), the same at each of its tokens (Zheng
    et al. 2025, GSPO, arXiv 2507.18071, section 4.1)."""
    log_ratio_BT = mask_BT * (logp_BT - old_BT)
    if isinstance(c, GrpoConfig) and c.ratio == "sequence":
        length_B1 = jnp.maximum(jnp.sum(mask_BT, axis=1, keepdims=True), 1.0)
        log_ratio_BT = jnp.broadcast_to(jnp.sum(log_ratio_BT, axis=1, keepdims=True) / length_B1, log_ratio_BT.shape)
    return jnp.exp(log_ratio_BT)


def clipped(c: RlConfig, ratio_BT: jax.Array, advantage_BT: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(loss, 1 where it has no gradient) of every token: -min(ratio A, clip(ratio, 1 - clip_low, 1 + clip_high) A).

    Schulman et al. 2017 (arXiv 1707.06347), equation 7, with two clips as in DAPO (arXiv 2503.14476, equation 8)."""
    inside_BT = jnp.clip(ratio_BT, 1 - c.clip_low, 1 + c.clip_high)
    loss_BT = -jnp.minimum(ratio_BT * advantage_BT, inside_BT * advantage_BT)
    over_BT = (advantage_BT > 0) & (ratio_BT > 1 + c.clip_high)
    under_BT = (advantage_BT < 0) & (ratio_BT < 1 - c.clip_low)
    return loss_BT, (over_BT | under_BT).astype(jnp.float32)


def divergence(logp_BT: jax.Array, reference_BT: jax.Array) -> jax.Array:
    """pi_ref / pi - log(pi_ref / pi) - 1 at each token, at least 0: an estimate of KL(pi || pi_ref) in nats whose mean
    over draws from pi is right (Schulman 2020, "Approximating KL divergence", k3; Shao et al. 2024, arXiv 2402.03300,
    equation 4)."""
    away_BT = reference_BT - logp_BT
    return jnp.exp(away_BT) - away_BT - 1


def value_loss(c: PpoConfig, value_BT: jax.Array, old_BT: jax.Array, return_BT: jax.Array) -> jax.Array:
    """1/2 max((V - R)^2, (clip(V, V_old - e, V_old + e) - R)^2) at each token, with e = `value_clip`; without it 1/2 (V
    - R)^2. The squared error is Schulman et al. 2017 (arXiv 1707.06347), equation 9; its clip is that of OpenAI's
    baselines and of TRL: Engstrom et al. 2020 (arXiv 2005.12729), section 3."""
    error_BT = (value_BT - return_BT) ** 2
    if c.value_clip is not None:
        near_BT = jnp.clip(value_BT, old_BT - c.value_clip, old_BT + c.value_clip)
        error_BT = jnp.maximum(error_BT, (near_BT - return_BT) ** 2)
    return error_BT / 2


def policy_loss(
    c: RlConfig, logp_BT: jax.Array, value_BT: jax.Array | None, batch: PolicyBatch
) -> tuple[jax.Array, jax.Array, Sums]:
    """(sum, weight, metric sums) of a batch, from log pi of each target in nats and the values of PPO's head.

    The loss of a token is that of `clipped`, times `correction_BT` (Yao et al. 2025, "Your efficient RL framework
    secretly brings you off-policy RL training", a page of theirs without numbers), plus kl times `divergence` (Shao et
    al. 2024, arXiv 2402.03300, equation 3), plus value_weight times `value_loss` (Schulman et al. 2017, arXiv
    1707.06347, equation 9). The metrics are the share of tokens without gradient, the mean ratio, the divergence from
    the roll-out's weights (k3) and from the reference, and the loss of the value head.
    """
    mask_BT = (jnp.asarray(batch.rows.weights_BT) > 0).astype(jnp.float32)
    logp_BT = jnp.where(mask_BT > 0, logp_BT, 0.0)  # as in the batch: else e to some power is infinite, and 0 * inf NaN
    share = shares(c, mask_BT)
    ratio_BT = ratios(c, logp_BT, batch.old_BT, mask_BT)
    loss_BT, still_BT = clipped(c, ratio_BT, batch.advantage_BT)
    loss_BT = loss_BT * batch.correction_BT
    each = {"clip_share": still_BT, "ratio": ratio_BT, "moved_nats": divergence(batch.old_BT, logp_BT)}
    if batch.reference_BT is not None:
        each["kl_nats"] = divergence(logp_BT, batch.reference_BT)
        loss_BT += c.kl * each["kl_nats"]
    if value_BT is not None:
        assert isinstance(c, PpoConfig)
        each["value_loss"] = value_loss(c, value_BT, batch.value_BT, batch.return_BT)
        loss_BT += c.value_weight * each["value_loss"]
    sums = {name: jnp.sum(share.metric_BT * value) for name, value in each.items()}
    return jnp.sum(share.loss_BT * loss_BT), share.total, sums
