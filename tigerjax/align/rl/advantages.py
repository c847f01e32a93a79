"""Advantages: by how much an answer, or a token of it, was better than expected. R answers of T positions."""

import numpy as np

EPSILON = 1e-4
"""Added to the deviation of a group, as TRL does."""


def of_groups(reward_PG: np.ndarray, *, divide_by_std: bool) -> np.ndarray:
    """A_PG float64 of the G answers to each of P prompts: (r - mean(r)) / (std(r) + EPSILON), with the deviation of a
    sample. Answers whose reward is NaN are in neither, and get 0.

    Shao et al. 2024 (arXiv 2402.03300), section 4.1; without the deviation Liu et al. 2025 (Dr. GRPO, arXiv
    2503.20783), section 3.2. Several rewards are added up before.
    """
    there_PG = np.isfinite(reward_PG)
    count_P1 = there_PG.sum(axis=1, keepdims=True)
    known_PG = np.where(there_PG, reward_PG, 0.0)
    away_PG = np.where(there_PG, known_PG - known_PG.sum(axis=1, keepdims=True) / np.maximum(count_P1, 1), 0.0)
    if not divide_by_std:
        return away_PG
    std_P1 = np.sqrt((away_PG**2).sum(axis=1, keepdims=True) / np.maximum(count_P1 - 1, 1))
    scaled_PG: np.ndarray = away_PG / (std_P1 + EPSILON)
    return scaled_PG


def spread(reward_PG: np.ndarray) -> np.ndarray:
    """The largest reward of each group minus the smallest; -1 where fewer than two answers have one.

    A group without spread is left out: Yu et al. 2025 (DAPO, arXiv 2503.14476), equation 11, which asks for answers
    that are right beside answers that are wrong."""
    there_PG = np.isfinite(reward_PG)
    most_P = np.where(there_PG, reward_PG, -np.inf).max(axis=1)
    least_P = np.where(there_PG, reward_PG, np.inf).min(axis=1)
    apart_P: np.ndarray = np.where(there_PG.sum(axis=1) >= 2, most_P - least_P, -1.0)
    return apart_P


def of_tokens(
    reward_R: np.ndarray, value_RT: np.ndarray, mask_RT: np.ndarray, *, discount: float, trace: float
) -> tuple[np.ndarray, np.ndarray]:
    """(A_RT, returns_RT) float64 by generalised advantage estimation, 0 where `mask_RT` is 0.

    A(t) = d(t) + discount trace A(t + 1), with d(t) = r(t) + discount V(t + 1) - V(t): Schulman et al. 2016 (arXiv
    1506.02438), equation 16; Schulman et al. 2017 (arXiv 1707.06347), equations 11 and 12. The reward of an answer
    comes with its last token, after which the value is 0. The return is A(t) + V(t). The tokens of an answer stand side
    by side.
    """
    T = mask_RT.shape[1]
    advantage_RT, running_R, after_R = np.zeros(mask_RT.shape), np.zeros(len(reward_R)), np.zeros(len(reward_R))
    ended_R = np.zeros(len(reward_R), bool)
    for t in reversed(range(T)):
        live_R = mask_RT[:, t] > 0
        paid_R = np.where(live_R & ~ended_R, reward_R, 0.0)
        error_R = paid_R + discount * after_R - value_RT[:, t]
        running_R = np.where(live_R, error_R + discount * trace * running_R, running_R)
        after_R = np.where(live_R, value_RT[:, t], after_R)
        ended_R |= live_R
        advantage_RT[:, t] = np.where(live_R, running_R, 0.0)
    returns_RT = np.where(mask_RT > 0, advantage_RT + value_RT, 0.0)
    return advantage_RT, returns_RT


def normalised(advantage_RT: np.ndarray, mask_RT: np.ndarray) -> np.ndarray:
    """(A - mean) / sqrt(var + 1e-8) over all tokens, with the variance of a sample; 0 where `mask_RT` is 0. TRL calls
    it `masked_whiten`."""
    values = advantage_RT[mask_RT > 0]
    if len(values) < 2:
        return advantage_RT
    scaled_RT = (advantage_RT - values.mean()) / np.sqrt(values.var(ddof=1) + 1e-8)
    return np.where(mask_RT > 0, scaled_RT, 0.0)
