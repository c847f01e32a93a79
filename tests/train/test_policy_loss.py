"""The losses of reinforcement learning equal the formulas of the papers and of TRL, written here once more in numpy."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from tigerjax.align.rl import advantages
from tigerjax.config import GrpoConfig, PpoConfig
from tigerjax.data.rows import make_batch, make_row
from tigerjax.train.policy_loss import PolicyBatch, policy_loss

TOLERANCE = 1e-5  # float32: sums of some ten terms of order 1
GIVEN = {"prompts": ("p",), "rewards": ("r",), "max_new_tokens": 5}
LENGTHS = [3, 5, 0, 2]  # tokens of each answer; the third row is not in the loss
T, PROMPT = 8, 2
RNG = np.random.default_rng(5)
MASK = np.array([[PROMPT - 1 <= t < PROMPT - 1 + n for t in range(T)] for n in LENGTHS])
OLD = np.where(MASK, RNG.uniform(-3, -0.1, MASK.shape), 0).astype(np.float32)
LOGP = (OLD + RNG.normal(0, 0.3, MASK.shape)).astype(np.float32)  # where MASK is not, it must not matter
REFERENCE = np.where(MASK, OLD + RNG.normal(0, 0.5, MASK.shape), 0).astype(np.float32)
CORRECTION = np.where(MASK, RNG.uniform(0.5, 2, MASK.shape), 0).astype(np.float32)
ADVANTAGE = np.where(MASK, np.array([[1.2], [-0.7], [0.4], [-1.5]]), 0).astype(np.float32)
OLD_VALUE = np.where(MASK, RNG.normal(0, 0.5, MASK.shape), 0).astype(np.float32)
VALUE = (OLD_VALUE + RNG.normal(0, 0.4, MASK.shape)).astype(np.float32)
RETURN = np.where(MASK, RNG.normal(0, 1, MASK.shape), 0).astype(np.float32)


def batch(c, reference=True):
    rows = []
    for n in LENGTHS:
        ids = (np.arange(T) < PROMPT + n).astype(int) if n else np.zeros(T, int)
        rows.append(make_row(np.arange(T) % 5, ids, (np.arange(T) >= PROMPT) & (ids > 0)))
    ppo = isinstance(c, PpoConfig)
    return PolicyBatch(
        make_batch(rows),
        OLD,
        CORRECTION,
        ADVANTAGE,
        REFERENCE if reference else None,
        OLD_VALUE if ppo else None,
        RETURN if ppo else None,
    )


def by_hand(c):
    """(loss, share of tokens that are clipped, mean divergence from the reference), token by token."""
    total, clipped, away, counted, tokens = 0.0, 0.0, 0.0, 0, 0
    for i, n in enumerate(LENGTHS):
        if n == 0:
            continue
        places = range(PROMPT - 1, PROMPT - 1 + n)
        mean_ratio = math.exp(sum(float(LOGP[i, t] - OLD[i, t]) for t in places) / n)  # GSPO
        losses = []
        for t in places:
            ratio = math.exp(float(LOGP[i, t]) - float(OLD[i, t]))
            if isinstance(c, GrpoConfig) and c.ratio == "sequence":
                ratio = mean_ratio
            a = float(ADVANTAGE[i, t])
            near = min(max(ratio, 1 - c.clip_low), 1 + c.clip_high)
            loss = -min(ratio * a, near * a) * float(CORRECTION[i, t])
            d = float(REFERENCE[i, t]) - float(LOGP[i, t])
            k3 = math.exp(d) - d - 1
            loss += c.kl * k3
            if isinstance(c, PpoConfig):
                v, v0, r = (float(x[i, t]) for x in (VALUE, OLD_VALUE, RETURN))
                error = (v - r) ** 2
                if c.value_clip is not None:
                    error = max(error, (min(max(v, v0 - c.value_clip), v0 + c.value_clip) - r) ** 2)
                loss += c.value_weight * 0.5 * error
            losses.append(loss)
            is_clipped = (a > 0 and ratio > 1 + c.clip_high) or (a < 0 and ratio < 1 - c.clip_low)
            share = 1 if c.mean == "token" else 1 / n
            clipped, away = clipped + share * is_clipped, away + share * k3
        total += {"answer": sum(losses) / n, "token": sum(losses), "longest": sum(losses) / c.max_new_tokens}[c.mean]
        counted, tokens = counted + 1, tokens + n
    over = tokens if c.mean == "token" else counted
    return total / over, clipped / over, away / over


CASES = [
    GrpoConfig(**GIVEN),
    GrpoConfig(**GIVEN, kl=0.3, clip_high=0.28, mean="token"),
    GrpoConfig(**GIVEN, kl=0.1, mean="longest"),
    GrpoConfig(**GIVEN, kl=0.1, ratio="sequence", clip_low=0.05, clip_high=0.04),
    PpoConfig(**GIVEN, kl=0.2),
    PpoConfig(**GIVEN, value_clip=None, value_weight=0.5, mean="answer"),
]


@pytest.mark.parametrize("c", CASES, ids=lambda c: f"{type(c).__name__}-{c.mean}")
def test_the_loss_is_that_of_the_formulas(c):
    value = VALUE if isinstance(c, PpoConfig) else None
    total, weight, sums = jax.jit(lambda logp, value: policy_loss(c, logp, value, batch(c)))(LOGP, value)
    loss, clipped, away = by_hand(c)
    assert total / weight == pytest.approx(loss, abs=TOLERANCE)
    assert sums["clip_share"] / weight == pytest.approx(clipped, abs=TOLERANCE) and 0 < clipped < 1
    assert sums["kl_nats"] / weight == pytest.approx(away, abs=TOLERANCE)


def test_one_token_by_values_written_out():
    """pi = 0.6, pi_old = 0.5, pi_ref = 0.3, A = 2: the ratio 1.2 is at the clip, k3 = 0.5 - log 0.5 - 1 = 0.193147."""
    c = GrpoConfig(**GIVEN, kl=0.1, clip_high=0.1)
    one = PolicyBatch(
        make_batch([make_row([1, 2, 0], [1, 1, 0], [0, 1, 0])]),
        *(np.array([[x, 0, 0]], np.float32) for x in (math.log(0.5), 1.0, 2.0, math.log(0.3))),
    )
    total, weight, sums = policy_loss(c, np.array([[math.log(0.6), -9, -9]], np.float32), None, one)
    assert weight == 1 and sums["clip_share"] == 1 and sums["ratio"] == pytest.approx(1.2)
    assert total == pytest.approx(-1.1 * 2 + 0.1 * 0.19314718, abs=1e-6)


def test_places_outside_of_answers_have_neither_loss_nor_gradient_however_unlikely_their_tokens():
    c = GrpoConfig(**GIVEN, kl=0.1)
    far = np.where(MASK, LOGP, -1e4).astype(np.float32)
    gradient = jax.grad(lambda logp: policy_loss(c, logp, None, batch(c))[0])(far)
    assert np.isfinite(gradient).all() and not gradient[~MASK].any() and gradient[MASK].any()
    assert policy_loss(c, far, None, batch(c))[0] == policy_loss(c, LOGP, None, batch(c))[0]


def test_without_a_reference_there_is_no_divergence_and_a_clip_stops_the_gradient():
    c = GrpoConfig(**GIVEN, clip_high=0.1)
    gradient = jax.grad(lambda logp: policy_loss(c, logp, None, batch(c, reference=False))[0])(OLD + 0.2)
    assert "kl_nats" not in policy_loss(c, LOGP, None, batch(c, reference=False))[2]
    assert not gradient[0].any() and gradient[1].any()  # a ratio of 1.22: a gain is clipped, a loss is not


def test_advantages_of_a_group_are_those_of_trl():
    """TRL: (r - mean) / (std + 1e-4), with torch's std, that of a sample. Rewards 1, 2, 3, 6: mean 3, std 2.160247."""
    rewards = np.array([[1.0, 2.0, 3.0, 6.0], [5.0, 5.0, 5.0, 5.0], [1.0, math.nan, 3.0, math.nan]])
    found = advantages.of_groups(rewards, divide_by_std=True)
    assert found[0] == pytest.approx([-0.925777, -0.462889, 0.0, 1.388666], abs=1e-5)
    assert found[1].tolist() == [0, 0, 0, 0] and found[2] == pytest.approx([-0.70706, 0, 0.70706, 0], abs=1e-5)
    assert advantages.of_groups(rewards, divide_by_std=False)[0].tolist() == [-2, -1, 0, 3]
    assert advantages.spread(rewards).tolist() == [5, 0, 2]
    assert advantages.spread(np.array([[1.0, math.nan]])).tolist() == [-1]


def test_generalised_advantages_are_the_sum_of_discounted_errors():
    """gamma 0.9, lambda 0.8: V = 0.5, 0.25, 1 and the reward 2 give d = -0.275, 0.65, 1 and A = d + 0.72 A(t + 1)."""
    mask = np.array([[0, 1, 1, 1, 0], [1, 0, 0, 0, 0]], np.float32)
    values = np.array([[0, 0.5, 0.25, 1, 0], [0.75, 0, 0, 0, 0]])
    found, returns = advantages.of_tokens(np.array([2.0, -1.0]), values, mask, discount=0.9, trace=0.8)
    assert found[0] == pytest.approx([0, -0.275 + 0.72 * (0.65 + 0.72), 0.65 + 0.72, 1, 0])
    assert found[1] == pytest.approx([-1.75, 0, 0, 0, 0]) and returns[1, 0] == pytest.approx(-1)
    assert returns[0] == pytest.approx([0, found[0, 1] + 0.5, found[0, 2] + 0.25, 2, 0])
    plain, _ = advantages.of_tokens(np.array([2.0, -1.0]), values, mask, discount=1.0, trace=1.0)
    assert plain[0] == pytest.approx([0, 1.5, 1.75, 1, 0])  # the reward less the value
    scaled = advantages.normalised(found, mask)
    assert scaled[mask > 0].mean() == pytest.approx(0, abs=1e-9) and scaled[mask > 0].std(ddof=1) == pytest.approx(1)


def test_a_field_says_what_it_needs():
    with pytest.raises(ValueError, match=r"objective\.prompts='p\.jsonl' must be a tuple"):
        GrpoConfig(**(GIVEN | {"prompts": "p.jsonl"}))
    with pytest.raises(ValueError, match=r"reward_weights and objective\.rewards are 2 and 1 entries long"):
        GrpoConfig(**GIVEN, reward_weights=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"draws=2 replaces groups that min_spread leaves out"):
        GrpoConfig(**GIVEN, min_spread=None, draws=2)
    assert dataclasses.replace(CASES[0], reward_weights=(0.5,)).weights == (0.5,) and CASES[0].weights == (1.0,)
