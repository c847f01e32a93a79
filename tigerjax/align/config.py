"""What reward training and rounds of rejection sampling need beside a RunConfig; same form as tigerjax/config.py."""

import dataclasses
from typing import Literal

from tigerjax.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """What reward training and scoring need beside a RunConfig."""

    eval_fraction: float = 0.1
    """Share of the prompts held out, drawn by the hash of the prompt."""
    centering: float = 0.01
    """Coefficient of (r_w + r_l)^2 in the pair loss; 0 leaves scores free to drift."""
    truncation_penalty: float = 2.0
    """Taken from the calibrated score (standard deviations) of an answer that did not end by itself."""
    score_rows: int = 64
    """Answers in one scoring batch; every batch is padded to it, so that a score never depends on its neighbours."""
    min_accuracy: float = 0.55
    """Held-out pair accuracy under which the model is not usable for ranking."""
    max_length_rho: float = 0.5
    """Spearman correlation of score and length above which a warning is given."""

    def __post_init__(self) -> None:
        if not 0 < self.eval_fraction < 1:
            raise ConfigError(f"reward eval_fraction={self.eval_fraction} must be inside (0, 1)")
        if self.centering < 0 or self.truncation_penalty < 0:
            raise ConfigError(
                f"reward centering={self.centering} and truncation_penalty={self.truncation_penalty} must be at least 0"
            )
        if self.score_rows < 1:
            raise ConfigError(f"reward score_rows={self.score_rows} must be at least 1")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """One round of rejection sampling: shares for people, what may win, what the new model must keep."""

    prompt_fraction: float
    """Share of the SFT prompts that are sampled again; in [0.05, 0.10] unless allow_fraction."""
    seed: int  # Of all draws of the rounds
    allow_fraction: bool = False  # Lets prompt_fraction leave [0.05, 0.10]
    exclude_rounds: int = 1
    """Prompts of so many previous rounds are not drawn again."""
    rank_fraction: float = 0.05
    """Share of the sampled prompts that people rank, rounded up."""
    edit_fraction: float = 0.01
    """Share of the sampled prompts whose best answer people rewrite, rounded up."""
    edit_within_ranked: bool = True
    """The edited prompts are some of the ranked ones (95 + 5, of which 1); False makes them disjoint (94 + 5 + 1)."""
    allow_partial: bool = False
    """Missing labels fall back to the reward model's order, which is recorded, instead of blocking."""
    top_m: int = 1
    """Winners a prompt."""
    min_score: float | None = None
    """Calibrated score that a winner chosen by the reward model must reach."""
    beat_reference: bool = True
    """A winner chosen by the reward model must score above the existing answer."""
    on_conflict: Literal["add", "replace"] = "add"
    """Whether a winner joins the existing answer of its prompt or takes its place."""
    rm_weight: float = 1.0  # Times that a winner of the reward model counts in the loss
    human_weight: float = 1.0  # The same of a winner that people ranked first
    edit_weight: float = 1.0  # The same of an edited answer
    max_mean_loss_points: float = 1.0
    """Points of accuracy that the mean of a language may lose in the gate."""
    max_task_loss_points: float = 3.0
    """Points of accuracy that one task may lose in the gate."""
    min_win_rate: float = 0.5
    """Share of held-out prompts on which the reward model prefers the new model; ties count half."""

    def __post_init__(self) -> None:
        for name in ("prompt_fraction", "rank_fraction", "edit_fraction"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"align {name}={getattr(self, name)} must be in (0, 1]")
        if not self.allow_fraction and not 0.05 <= self.prompt_fraction <= 0.10:
            raise ConfigError(
                f"align prompt_fraction={self.prompt_fraction} is outside [0.05, 0.10]; change it or set allow_fraction"
            )
        if self.top_m < 1:
            raise ConfigError(f"align top_m={self.top_m} must be at least 1")
