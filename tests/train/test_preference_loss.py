"""The losses over preferences equal TRL's formulas, which are written here once more, in numpy and pair by pair."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from tigerjax.config import DpoConfig, IpoConfig, KtoConfig, OrpoConfig, SimpoConfig
from tigerjax.data.rows import make_batch, make_row
from tigerjax.train.preference_loss import PreferenceBatch, preference_loss

TOLERANCE = 1e-5  # float32: sums of some ten terms of order 1 to 10
FILES = {"preferences": ("p",)}
# Of three rows with up to three answers each: tokens, log pi and log pi_ref. The third answers another prompt.
TOKENS = [[4, 2, 3], [5, 3, 2], [3, 0, 0]]
LOGP = np.array([[-6.5, -3.25, -9.0], [-4.75, -8.5, -2.5], [-1.5, 0.0, 0.0]], np.float32)
REFERENCE = np.array([[-7.0, -3.0, -9.75], [-4.5, -6.75, -3.5], [-2.0, 0.0, 0.0]], np.float32)
UNRELATED = np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]], np.float32)
PAIRS = [(0, 0, 1, 1.0), (1, 1, 0, 0.75), (1, 0, 1, 0.25)]  # row, better, worse, weight


def batch(reference=True):
    rows = []
    for lengths in TOKENS:
        ids = np.concatenate([np.full(1 + n, 1 + i) for i, n in enumerate(lengths) if n] + [np.zeros(20)])[:14]
        starts = np.concatenate([[True], ids[1:] != ids[:-1]])  # one token of the prompt before each answer
        rows.append(make_row(np.arange(14) % 7, ids, (ids > 0) & ~starts))
    winner, loser, weight = np.zeros((3, 2), np.int32), np.zeros((3, 2), np.int32), np.zeros((3, 2), np.float32)
    for row, better, worse, share in PAIRS:
        at = int(np.count_nonzero(weight[row]))
        winner[row, at], loser[row, at], weight[row, at] = better, worse, share
    return PreferenceBatch(make_batch(rows), winner, loser, weight, UNRELATED, REFERENCE if reference else None)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def smoothed(x, share):
    return -math.log(sigmoid(x)) * (1 - share) - math.log(sigmoid(-x)) * share


def dpo(c, better, worse, kl):
    ratios = [(p - r) / (n if c.length_normalised else 1) for p, r, n in (better, worse)]
    return smoothed(c.beta * (ratios[0] - ratios[1]), c.label_smoothing), c.beta * ratios[0], c.beta * ratios[1]


def ipo(c, better, worse, kl):
    ratios = [(p - r) / (n if c.length_normalised else 1) for p, r, n in (better, worse)]
    return (ratios[0] - ratios[1] - 1 / (2 * c.tau)) ** 2, c.tau * ratios[0], c.tau * ratios[1]


def kto(c, better, worse, kl):
    good, bad = (p - r for p, r, _ in (better, worse))
    losses = c.desirable_weight * (1 - sigmoid(c.beta * (good - kl)))
    losses += c.undesirable_weight * (1 - sigmoid(c.beta * (kl - bad)))
    return losses / 2, c.beta * good, c.beta * bad  # TRL's mean is over answers, of which a pair has two


def orpo(c, better, worse, kl):
    means = [p / n for p, _, n in (better, worse)]
    odds = [math.exp(m) / (1 - math.exp(m)) for m in means]
    ratio = -math.log(sigmoid(math.log(odds[0] / odds[1])))
    return -means[0] + c.odds_weight * ratio, c.odds_weight * means[0], c.odds_weight * means[1]


def simpo(c, better, worse, kl):
    means = [p / n for p, _, n in (better, worse)]
    loss = smoothed(c.beta * (means[0] - means[1] - c.margin / c.beta), c.label_smoothing)
    return loss, c.beta * means[0], c.beta * means[1]


CASES = [
    (DpoConfig(**FILES, beta=0.3), dpo),
    (DpoConfig(**FILES, beta=0.3, label_smoothing=0.2), dpo),
    (DpoConfig(**FILES, beta=0.7, label_smoothing=0.1, length_normalised=True), dpo),
    (IpoConfig(**FILES, tau=0.4), ipo),
    (IpoConfig(**FILES, tau=0.4, length_normalised=True), ipo),
    (KtoConfig(**FILES, beta=0.3, desirable_weight=1.5, undesirable_weight=0.5), kto),
    (OrpoConfig(**FILES, odds_weight=0.3), orpo),
    (SimpoConfig(**FILES, beta=2.5, margin=0.75, label_smoothing=0.1), simpo),
]


@pytest.mark.parametrize(("settings", "formula"), CASES, ids=lambda v: getattr(v, "__name__", None) or type(v).__name__)
def test_loss_and_rewards_equal_the_formula(settings, formula):
    kl = max(0.0, float(((LOGP - REFERENCE) * UNRELATED).sum() / UNRELATED.sum()))
    assert kl > 0
    total, weight, sums = preference_loss(settings, LOGP, batch())
    losses, better_rewards, worse_rewards, right = 0.0, 0.0, 0.0, 0.0
    for row, better, worse, share in PAIRS:
        sides = [(float(LOGP[row, i]), float(REFERENCE[row, i]), TOKENS[row][i]) for i in (better, worse)]
        loss, up, down = formula(settings, *sides, kl)
        losses, right = losses + share * loss, right + share * ((up > down) + (up == down) / 2)
        better_rewards, worse_rewards = better_rewards + share * up, worse_rewards + share * down
    assert float(weight) == 2.0
    assert float(total) == pytest.approx(losses, abs=TOLERANCE, rel=TOLERANCE)
    assert float(sums["chosen_reward"]) == pytest.approx(better_rewards, abs=TOLERANCE, rel=TOLERANCE)
    assert float(sums["rejected_reward"]) == pytest.approx(worse_rewards, abs=TOLERANCE, rel=TOLERANCE)
    assert float(sums["reward_margin"]) == pytest.approx(better_rewards - worse_rewards, abs=TOLERANCE, rel=TOLERANCE)
    assert float(sums["reward_accuracy"]) == pytest.approx(right)
    assert float(sums["chosen_logp_nats"]) == pytest.approx(-6.5 - 0.75 * 8.5 - 0.25 * 4.75)


@pytest.mark.parametrize(("settings", "formula"), CASES[:1] + CASES[3:4] + CASES[5:], ids=lambda v: type(v).__name__)
def test_the_gradient_is_that_of_the_formula_with_a_constant_divergence(settings, formula):
    """By differences of the formula; KTO's estimate of the divergence, and padding, have no gradient."""
    gradient = np.asarray(jax.grad(lambda logp: preference_loss(settings, logp, batch())[0])(LOGP))
    kl = max(0.0, float(((LOGP - REFERENCE) * UNRELATED).sum() / UNRELATED.sum()))
    wanted, step = np.zeros_like(LOGP), 1e-6
    for row, better, worse, share in PAIRS:
        sides = [(float(LOGP[row, i]), float(REFERENCE[row, i]), TOKENS[row][i]) for i in (better, worse)]
        for place, at in enumerate((better, worse)):
            up, down = ([(p + way * step * (i == place), r, n) for i, (p, r, n) in enumerate(sides)] for way in (1, -1))
            slope = (formula(settings, *up, kl)[0] - formula(settings, *down, kl)[0]) / (2 * step)
            wanted[row, at] += share * slope
    np.testing.assert_allclose(gradient, wanted, atol=1e-4)  # 1e-4: differences of float64 of 1e-10, divided by 1e-6


def test_odds_of_an_answer_that_is_certain_are_finite():
    settings = OrpoConfig(**FILES)
    certain = LOGP.copy()
    certain[0, 0] = 0.0
    loss, gradient = jax.value_and_grad(lambda logp: preference_loss(settings, logp, batch(False))[0])(certain)
    assert math.isfinite(loss) and np.isfinite(gradient).all()


def test_a_loss_without_reference_reads_none_and_smoothing_of_one_half_is_refused():
    with_it, without = (preference_loss(CASES[-1][0], LOGP, batch(reference)) for reference in (True, False))
    assert float(with_it[0]) == float(without[0])
    with pytest.raises(Exception, match=r"label_smoothing=0\.5 must be at least 0 and below 0\.5"):
        dataclasses.replace(CASES[0][0], label_smoothing=0.5)
