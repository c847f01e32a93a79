"""The settings of reinforcement learning: what is answered, what rewards an answer, and the loss over the answers."""

import dataclasses
from typing import Annotated, Literal

from tigerjax.config.objective import ObjectiveConfig
from tigerjax.config.ranges import Count, Factor, PositiveFactor, Range, Share, check
from tigerjax.errors import ConfigError

Group = Annotated[int, Range(2, 2**16)]
"""Answers to one prompt that are compared with each other."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RlConfig(ObjectiveConfig):
    """A policy gradient over answers that the model itself draws. The subclasses are the losses that there are.

    A roll-out is `prompts_per_rollout` prompts with `answers` answers to each, drawn at temperature 1 from the weights
    of that moment. Each answer is a row of data.seq_len tokens, with its prompt before it. The rows are shuffled, split
    into batches of global_batch_size and read `epochs` times; then the next roll-out is drawn. The formulas are in
    `tigerjax/train/policy_loss.py`.
    """

    prompts: tuple[str, ...]
    """Files of SFT examples, whose last answers are left out, or of prompts as `tigerjax sample` reads them."""
    rewards: tuple[str, ...]
    """What scores an answer: folders of calibrated reward models, Python functions MODULE:FUNCTION, and .toml files
    with a judge or a weighted sum (docs/ALIGNMENT.md)."""
    reward_weights: tuple[Factor, ...] = ()
    """Weight of each of the rewards in their sum. Empty: 1 each."""
    prompts_per_rollout: Count = 32
    """Prompts that are answered before the weights change."""
    answers: Count = 8  # Answers to each prompt of a roll-out
    max_new_tokens: Count = 256
    """The longest answer. A prompt that leaves less room in data.seq_len is left out and counted."""
    epochs: Count = 1  # How many times each roll-out is trained on
    kl: Factor = 0.0
    """Weight of the divergence from the model that the run starts from. 0: that model is not kept in memory."""
    clip_low: Share = 0.2
    """A ratio of probabilities below 1 minus this gets no further gradient."""
    clip_high: PositiveFactor = 0.2
    """A ratio of probabilities above 1 plus this gets no further gradient. DAPO's clip-higher is 0.28."""
    sampler_cap: PositiveFactor | None = 2.0
    """The loss of a token is multiplied by the probability that the trainer gives it over that of the sampler, at most
    this. None: it is not multiplied."""
    mean: Literal["answer", "token", "longest"] = "answer"
    """Over what the loss is a mean. answer: over answers, of the mean over the tokens of each (GRPO). token: over all
    tokens of a batch (DAPO). longest: as answer, but the sum over the tokens of each is divided by max_new_tokens
    (Dr. GRPO)."""
    decode_rows: Count = 64
    """Answers that are drawn side by side, over all devices."""
    score_batch_size: Count = 64
    """Answers in one batch of a reward model."""

    def __post_init__(self) -> None:
        check(self, "objective.")
        if self.z_loss:
            raise ConfigError(
                f"objective.z_loss={self.z_loss} is a part of the next token's cross-entropy, which a loss over answers"
                " is not; set it to 0"
            )
        for name in ("prompts", "rewards"):
            given = getattr(self, name)
            if isinstance(given, str):
                raise ConfigError(f"objective.{name}={given!r} must be a tuple of texts, such as ({given!r},)")
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise ConfigError(
                f"objective.reward_weights and objective.rewards are {len(self.reward_weights)} and"
                f" {len(self.rewards)} entries long; give one weight for each, or none"
            )

    @property
    def rows(self) -> int:
        """Answers of a roll-out."""
        return self.prompts_per_rollout * self.answers

    @property
    def weights(self) -> tuple[float, ...]:
        """The weight of each of the rewards."""
        return self.reward_weights or (1.0,) * len(self.rewards)


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class GrpoConfig(RlConfig):
    """Group relative policy optimisation, an answer compared with the others to its prompt: Shao et al. 2024 (arXiv
    2402.03300), equation 3."""

    answers: Group = 8  # Answers to each prompt of a roll-out
    divide_by_std: bool = True
    """Whether a reward's distance from the mean of its group is divided by their deviation; Dr. GRPO does not."""
    ratio: Literal["token", "sequence"] = "token"
    """Whether the ratio of probabilities that is clipped is that of each token, or of the whole answer per token
    (GSPO, whose clips are far smaller: about 0.0003)."""
    min_spread: Factor | None = 0.0
    """A group whose rewards lie no further apart than this says nothing: it is left out of the loss and counted. None
    keeps every group."""
    draws: Count = 1
    """While groups are left out for `min_spread`, further prompts are answered in their place, so many times the
    roll-out's prompts at most (DAPO's dynamic sampling)."""

    def __post_init__(self) -> None:
        RlConfig.__post_init__(self)
        if self.draws > 1 and self.min_spread is None:
            raise ConfigError(
                f"objective.draws={self.draws} replaces groups that min_spread leaves out, and min_spread is None; set"
                " draws=1, or min_spread=0"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PpoConfig(RlConfig):
    """Proximal policy optimisation with a value head on the model's own trunk: Schulman et al. 2017 (arXiv 1707.06347),
    equations 7 and 9."""

    answers: Count = 1  # Answers to each prompt of a roll-out
    mean: Literal["answer", "token", "longest"] = "token"
    """Over what the loss is a mean: see RlConfig."""
    discount: Share = 1.0
    """How much a reward counts one token earlier (gamma)."""
    trace: Share = 0.95
    """How much the error of the value counts one token earlier (lambda of generalised advantage estimation)."""
    value_weight: Factor = 0.1  # Weight of the loss of the value head
    value_clip: PositiveFactor | None = 0.2
    """How far a value may move from that of the roll-out before its loss gets no further gradient. None: any way."""
    normalise: bool = True
    """Whether the advantages of a roll-out's tokens are brought to mean 0 and deviation 1."""
