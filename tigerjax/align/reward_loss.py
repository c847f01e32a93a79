"""The loss of a reward model over the pairs of a batch."""

import jax
import jax.numpy as jnp

from tigerjax.align.reward_data import RewardBatch
from tigerjax.train.objective import Sums


def pair_loss(scores_BC: jax.Array, batch: RewardBatch, *, centering: float) -> tuple[jax.Array, jax.Array, Sums]:
    """(sum, weight, {accuracy}) of -log_sigmoid(r_w - r_l - margin) + centering * (r_w + r_l)^2 over weighted pairs.

    The weights of a prompt's pairs sum to 1, so the returned weight is the number of prompts that have pairs.

    This is the Bradley-Terry likelihood of a ranking, with the pairs of a prompt weighted as in InstructGPT (Ouyang et
    al. 2022, arXiv 2203.02155, equation 1), the margin of Llama 2 (Touvron et al. 2023, arXiv 2307.09288, equation 2),
    and the term that draws scores to a mean of 0 of Eisenstein et al. (2023, "Helping or Herding?", arXiv 2312.09244,
    equation 2).
    """
    # Where a prompt has no answer C, all pairs weigh 0. But its score could be infinite, and 0 * inf is NaN.
    scores_BC = jnp.where(batch.last_BC >= 0, scores_BC, 0.0)
    winner_BC1, loser_B1C = scores_BC[:, :, None], scores_BC[:, None, :]
    gap_BCC = winner_BC1 - loser_B1C - batch.margins_BCC
    cost_BCC = -jax.nn.log_sigmoid(gap_BCC) + centering * (winner_BC1 + loser_B1C) ** 2
    right_BCC = (winner_BC1 > loser_B1C) + 0.5 * (winner_BC1 == loser_B1C)
    pairs_BCC = batch.pairs_BCC
    return jnp.sum(pairs_BCC * cost_BCC), jnp.sum(pairs_BCC), {"accuracy": jnp.sum(pairs_BCC * right_BCC)}
