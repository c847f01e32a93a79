"""Losses over preferences: formulas on the log-probabilities of answers, and the batch that they read.

Here y_w is the better answer of a pair to the prompt x and y_l the worse one. pi(y|x) is the probability that the model
gives to all tokens of y, the end of the answer included, and pi_ref that of the reference. r(y) is the logarithm of
pi(y|x) / pi_ref(y|x), and |y| the number of tokens of y. Logarithms are natural.

Beside the letters of `tigerjax.model.decoder`, C counts the answers of a row and P its pairs.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tigerjax.config import DpoConfig, IpoConfig, KtoConfig, OrpoConfig, PreferenceConfig, SimpoConfig
from tigerjax.data.rows import Batch

Sums = dict[str, jax.Array]
LARGEST_MEAN_NATS = -1e-6
"""Above this mean log-probability of an answer, ORPO's odds are taken to be those at this point: odds of a probability
of 1 are infinite."""


class PreferenceBatch(NamedTuple):
    """B rows of packed answers, each with its prompt before it, and the pairs of every row."""

    rows: Batch
    """Answer c of a row is its segment c + 1. `weights_BT` is 1 where the target is a token of the answer, else 0."""
    winner_BP: Any
    """int32: which answer of the row is the better one of each pair."""
    loser_BP: Any
    weight_BP: Any
    """float32 weight of each pair; 0 is padding. The weights of a prompt's pairs sum to 1."""
    unrelated_BC: Any
    """float32: 1 for an answer to another prompt, from which KTO estimates how far the model is from its reference."""
    reference_BC: Any = None
    """float32 log pi_ref of each answer, in nats; None where the loss has no reference."""


class Side(NamedTuple):
    """The better or the worse answers of all pairs."""

    logp_BP: jax.Array
    """log pi(y|x): the sum over the tokens of the answer, in nats."""
    reference_BP: jax.Array
    """log pi_ref(y|x); 0 where there is no reference."""
    tokens_BP: jax.Array
    """|y|, at least 1."""

    @property
    def mean_BP(self) -> jax.Array:
        """log pi(y|x) / |y|"""
        return self.logp_BP / self.tokens_BP

    def ratio_BP(self, length_normalised: bool = False) -> jax.Array:
        """r(y), or r(y) / |y|."""
        ratio_BP = self.logp_BP - self.reference_BP
        return ratio_BP / self.tokens_BP if length_normalised else ratio_BP


class Terms(NamedTuple):
    """What a loss gives for each pair."""

    loss_BP: jax.Array
    chosen_BP: jax.Array
    """Reward of the better answer."""
    rejected_BP: jax.Array
    more: Sums
    """Further metrics, each a number for every pair or one for all."""


def dpo(c: DpoConfig, chosen: Side, rejected: Side, kl: jax.Array) -> Terms:
    """-log sigmoid(beta (r(y_w) - r(y_l))): Rafailov et al. 2023 (arXiv 2305.18290), equation 7.

    With `label_smoothing` e it is (1 - e) times this, plus e times the loss of the pair the other way round (Mitchell
    2023, "A note on DPO with noisy preferences", conservative DPO; it is not on arXiv). With `length_normalised` r(y)
    is divided by |y| (Lambert et al. 2024, Tulu 3, arXiv 2411.15124, section 5). The reward is beta r(y).
    """
    better_BP, worse_BP = (c.beta * side.ratio_BP(c.length_normalised) for side in (chosen, rejected))
    return Terms(_smoothed(better_BP - worse_BP, c.label_smoothing), better_BP, worse_BP, {})


def ipo(c: IpoConfig, chosen: Side, rejected: Side, kl: jax.Array) -> Terms:
    """(r(y_w) - r(y_l) - 1 / (2 tau))^2: Azar et al. 2023 (arXiv 2310.12036), equation 17.

    TRL divides each r(y) by |y|, as `length_normalised` does here. The reward is tau r(y).
    """
    better_BP, worse_BP = (side.ratio_BP(c.length_normalised) for side in (chosen, rejected))
    return Terms((better_BP - worse_BP - 1 / (2 * c.tau)) ** 2, c.tau * better_BP, c.tau * worse_BP, {})


def kto(c: KtoConfig, chosen: Side, rejected: Side, kl: jax.Array) -> Terms:
    """The mean of lambda_D (1 - sigmoid(beta (r(y_w) - z))) and lambda_U (1 - sigmoid(beta (z - r(y_l)))): Ethayarajh
    et al. 2024 (arXiv 2402.01306), equation 7.

    z estimates the divergence of the model from its reference: the mean of r over answers to other prompts in the
    micro-batch, at least 0, and a constant for the gradient. The reward is beta r(y).
    """
    good_BP, bad_BP = chosen.ratio_BP(), rejected.ratio_BP()
    desirable_BP = c.desirable_weight * (1 - jax.nn.sigmoid(c.beta * (good_BP - kl)))
    undesirable_BP = c.undesirable_weight * (1 - jax.nn.sigmoid(c.beta * (kl - bad_BP)))
    return Terms((desirable_BP + undesirable_BP) / 2, c.beta * good_BP, c.beta * bad_BP, {"kl_nats": kl})


def orpo(c: OrpoConfig, chosen: Side, rejected: Side, kl: jax.Array) -> Terms:
    """L_SFT + lambda L_OR: Hong et al. 2024 (arXiv 2403.07691), equations 4, 6 and 7.

    L_SFT = -log P(y_w|x) and L_OR = -log sigmoid(log(odds(y_w) / odds(y_l))), where log P(y|x) is log pi(y|x) / |y| and
    odds = P / (1 - P). The reward is lambda log P.

    TRL computes L_SFT over the tokens of the prompt too; here, as in the paper, it is that of the answer.
    """
    odds_BP = _log_odds(chosen.mean_BP) - _log_odds(rejected.mean_BP)
    sft_BP = -chosen.mean_BP
    loss_BP = sft_BP - c.odds_weight * jax.nn.log_sigmoid(odds_BP)
    more = {"sft_nats": sft_BP, "log_odds_ratio": odds_BP}
    return Terms(loss_BP, c.odds_weight * chosen.mean_BP, c.odds_weight * rejected.mean_BP, more)


def simpo(c: SimpoConfig, chosen: Side, rejected: Side, kl: jax.Array) -> Terms:
    """-log sigmoid(beta log pi(y_w|x) / |y_w| - beta log pi(y_l|x) / |y_l| - gamma): Meng et al. 2024 (arXiv
    2405.14734), equation 6, with `margin` as gamma.

    `label_smoothing` is that of `dpo`. The reward is beta log pi(y|x) / |y|.
    """
    better_BP, worse_BP = c.beta * chosen.mean_BP, c.beta * rejected.mean_BP
    return Terms(_smoothed(better_BP - worse_BP - c.margin, c.label_smoothing), better_BP, worse_BP, {})


LOSSES: dict[type[PreferenceConfig], Callable[[Any, Side, Side, jax.Array], Terms]] = {
    DpoConfig: dpo,
    IpoConfig: ipo,
    KtoConfig: kto,
    OrpoConfig: orpo,
    SimpoConfig: simpo,
}
"""(settings, better answers, worse answers, KTO's z) -> the terms of every pair."""


def preference_loss(
    c: PreferenceConfig, logp_BC: jax.Array, batch: PreferenceBatch
) -> tuple[jax.Array, jax.Array, Sums]:
    """(sum, weight, metric sums) over the weighted pairs of a batch, from log pi of each answer in nats.

    The metrics are the rewards of the better and of the worse answers, their difference, the share of pairs whose
    better answer has the higher reward (equal rewards count half), log pi of both, and what the loss itself adds.
    """
    reference_BC = jnp.zeros_like(logp_BC) if batch.reference_BC is None else batch.reference_BC
    tokens_BC = jnp.maximum(answer_sums(jnp.asarray(batch.rows.weights_BT), batch), 1.0)

    def side(place_BP: jax.Array) -> Side:
        return Side(*(jnp.take_along_axis(a, place_BP, axis=1) for a in (logp_BC, reference_BC, tokens_BC)))

    chosen, rejected, weight_BP = side(batch.winner_BP), side(batch.loser_BP), batch.weight_BP
    away = jnp.sum(batch.unrelated_BC * (logp_BC - reference_BC)) / jnp.maximum(jnp.sum(batch.unrelated_BC), 1.0)
    kl = jax.lax.stop_gradient(jnp.maximum(away, 0.0))
    terms = LOSSES[type(c)](c, chosen, rejected, kl)
    right_BP = (terms.chosen_BP > terms.rejected_BP) + 0.5 * (terms.chosen_BP == terms.rejected_BP)
    each = {
        "chosen_reward": terms.chosen_BP,
        "rejected_reward": terms.rejected_BP,
        "reward_margin": terms.chosen_BP - terms.rejected_BP,
        "reward_accuracy": right_BP,
        "chosen_logp_nats": chosen.logp_BP,
        "rejected_logp_nats": rejected.logp_BP,
        **terms.more,
    }
    sums = {name: jnp.sum(weight_BP * value) for name, value in each.items()}
    return jnp.sum(weight_BP * terms.loss_BP), jnp.sum(weight_BP), sums


def answer_sums(values_BT: jax.Array, batch: PreferenceBatch) -> jax.Array:
    """sums_BC of a number for each position, over the positions of each answer and its prompt."""
    answers = batch.unrelated_BC.shape[1]
    # Compared and added up, not scattered: it fuses, and T may be split over devices.
    mine_BTC = batch.rows.segment_ids_BT[..., None] == jnp.arange(1, answers + 1)
    return jnp.sum(jnp.where(mine_BTC, values_BT[..., None], 0.0), axis=1)


def _smoothed(margin_BP: jax.Array, label_smoothing: float) -> jax.Array:
    right_BP, wrong_BP = -jax.nn.log_sigmoid(margin_BP), -jax.nn.log_sigmoid(-margin_BP)
    return (1 - label_smoothing) * right_BP + label_smoothing * wrong_BP


def _log_odds(mean_BP: jax.Array) -> jax.Array:
    mean_BP = jnp.minimum(mean_BP, LARGEST_MEAN_NATS)
    return mean_BP - jnp.log(-jnp.expm1(mean_BP))
