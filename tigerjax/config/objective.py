"""What a run minimises: the cross-entropy of the next token, or a loss over preferences."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from tigerjax.config.model import LATER
from tigerjax.config.ranges import Factor, PositiveFactor, Range, check
from tigerjax.errors import ConfigError

Smoothing = Annotated[float, Range(0, 0.5, below=True)]
"""From 0.5 on, the labels would say nothing or the contrary."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """What a run minimises. This class itself is the cross-entropy of the next token.

    Another objective is a subclass, whose fields are its settings, and an entry in `tigerjax.train.objective`. Its
    numbers have ranges, as `tigerjax.config.ranges` says.
    """

    z_loss: Factor = dataclasses.field(default=0.0, metadata={LATER: True})
    """Of the cross-entropy: it also adds this times log(Z)^2 for each token, where Z is the sum of the exponentials of
    its logits. PaLM has 1e-4. A metric tells how much it is; validations leave it out."""

    def __post_init__(self) -> None:
        check(self, "objective.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceConfig(ObjectiveConfig):
    """A loss over pairs of answers of which one is better. The subclasses are the losses that there are.

    A row has CHATS x data.seq_len tokens. It holds both answers of each of its pairs, however long they are, and as
    many pairs as fit. The formulas are in `tigerjax/train/preference_loss.py`.
    """

    CHATS: ClassVar[int] = 2
    """How many of the longest chats a row has room for."""
    preferences: tuple[str, ...]
    """Files of answers, ordered by preference: what `tigerjax reward train` reads. A round of `tigerjax align` adds its
    own pairs to them; with that, there may be none."""

    def __post_init__(self) -> None:
        check(self, "objective.")
        if self.z_loss:
            raise ConfigError(
                f"objective.z_loss={self.z_loss} is a part of the next token's cross-entropy, which a loss over"
                " preferences is not; set it to 0"
            )
        if isinstance(self.preferences, str):
            raise ConfigError(
                f"objective.preferences={self.preferences!r} must be a tuple of files, such as ('a.jsonl',)"
            )


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ReferencedConfig(PreferenceConfig):
    """A loss that compares the model with the one that the run starts from, which is its reference."""

    reference: Literal["cached", "each_step"] = "cached"
    """When log-probabilities of the reference are computed. cached: once, before the first step; they are kept below
    data.cache_dir. each_step: before each step, for its rows; the reference then stays in memory beside the model."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class DpoConfig(ReferencedConfig):
    """Direct preference optimisation: Rafailov et al. 2023 (arXiv 2305.18290), equation 7."""

    beta: PositiveFactor = 0.1
    """How close the model stays to its reference: the larger, the closer."""
    label_smoothing: Smoothing = 0.0
    """The share of pairs that are taken to be labelled the wrong way round (conservative DPO)."""
    length_normalised: bool = False
    """Whether log-probabilities are means over the tokens of an answer, and not sums."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class IpoConfig(ReferencedConfig):
    """Identity preference optimisation: Azar et al. 2023 (arXiv 2310.12036), equation 17."""

    tau: PositiveFactor = 0.1
    """How close the model stays to its reference: the larger, the closer."""
    length_normalised: bool = False
    """Whether log-probabilities are means over the tokens of an answer, and not sums."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class KtoConfig(ReferencedConfig):
    """Kahneman-Tversky optimisation: Ethayarajh et al. 2024 (arXiv 2402.01306), equation 7.

    Each answer is good or bad by itself: the better one of a pair counts as good, the worse one as bad. A row has room
    for a third chat: the prompt with the answer to another one.
    """

    CHATS: ClassVar[int] = 3
    beta: PositiveFactor = 0.1
    """How close the model stays to its reference: the larger, the closer."""
    desirable_weight: Factor = 1.0  # Weight of good answers in the loss
    undesirable_weight: Factor = 1.0  # Weight of bad answers in the loss


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OrpoConfig(PreferenceConfig):
    """Odds ratio preference optimisation, SFT on the better answers and a ratio of odds: Hong et al. 2024 (arXiv
    2403.07691), equation 6."""

    odds_weight: Factor = 0.1
    """Weight of the odds ratio beside the loss of SFT."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SimpoConfig(PreferenceConfig):
    """Simple preference optimisation, with no reference and with means over the tokens of an answer: Meng et al. 2024
    (arXiv 2405.14734), equation 6."""

    beta: PositiveFactor = 2.0
    """Scale of the reward."""
    margin: Factor = 1.0
    """By how much the reward of the better answer should be higher (gamma in the paper)."""
    label_smoothing: Smoothing = 0.0
    """The share of pairs that are taken to be labelled the wrong way round."""
