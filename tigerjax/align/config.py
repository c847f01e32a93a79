"""Config dataclasses of reward training and of rounds, in the form of tigerjax.config."""

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

from tigerjax import records
from tigerjax.align.rewards.config import ScoreValue
from tigerjax.align.rewards.given import absolute
from tigerjax.config.ranges import Count, CountOrZero, Factor, PositiveShare, Range, Seed, Share, check
from tigerjax.errors import ConfigError
from tigerjax.files import paths

Points = Annotated[float, Range(-100, 100)]
"""Percentage points. Below 0 the gate demands a gain."""
NAME = r"\w[\w.+@-]*"
"""What the name of an annotator is: it names files too."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class RewardConfig:
    """Reward training and scoring: what they need in addition to a RunConfig."""

    eval_fraction: Annotated[float, Range(0, 1, above=True, below=True)] = 0.1
    """Share of the prompts that are held out to measure accuracy, drawn by the hash of the prompt."""
    centering: Factor = 0.01
    """Coefficient of (r_w + r_l)^2 in the pair loss, which draws the mean of the scores to 0; 0 is off."""
    truncation_penalty: Factor = 2.0
    """Subtracted, in standard deviations, from the calibrated score of an answer that the model did not end itself."""
    score_batch_size: Count = 64
    """Answers in one scoring batch. Every batch is padded to it, so that a score never depends on its neighbours."""
    min_accuracy: Share = 0.55
    """A model with a lower pair accuracy on the held-out prompts is refused."""
    max_length_rho: Share = 0.5
    """A larger Spearman correlation of score and answer length gives a warning."""

    def __post_init__(self) -> None:
        check(self, "reward.")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """A round of rejection sampling: which prompts, how much people judge, what may win, what the gate demands."""

    prompt_fraction: PositiveShare
    """Share of the SFT prompts that are sampled again; in [0.05, 0.10] unless --align.allow-fraction."""
    seed: Seed  # Seed of everything that the rounds draw at random
    allow_fraction: bool = False  # Allows a prompt_fraction outside [0.05, 0.10]
    exclude_rounds: CountOrZero = 1
    """The prompts of this many previous rounds are not drawn again."""
    rank_fraction: PositiveShare = 0.05
    """Share of the sampled prompts that people rank, rounded up."""
    edit_fraction: PositiveShare = 0.01
    """Share of the sampled prompts of which people rewrite an answer, rounded up."""
    edit_within_ranked: bool = True
    """Whether the prompts to edit are among those to rank: of 100 prompts 5 are ranked, 1 of them edited. Otherwise
    they are others: 5 are ranked and 1 more is edited."""
    allow_partial: bool = False
    """Whether a round resumes while labels are missing: the reward model ranks these prompts, and they are recorded."""
    more_candidates: CountOrZero = 0
    """A prompt of which no answer is above the existing one yet, or whose answers all score alike, is answered so many
    times more."""
    min_spread: Factor | None = None
    """A prompt whose answers' scores lie no further apart than this has no winner, since it says nothing about which
    answers are better; unless people judged it. None: such prompts are counted and may have winners."""
    top_m: Count = 1
    """The most winners of one prompt."""
    min_score: ScoreValue | None = None
    """Calibrated score that a winner chosen by the reward model must reach."""
    beat_reference: bool = True
    """A winner chosen by the reward model must score above the existing answer."""
    on_conflict: Literal["add", "replace"] = "add"
    """Whether a winner joins the existing answer of its prompt in the SFT set or replaces it."""
    rm_weight: Factor = 1.0  # Weight in the SFT loss of a winner that the reward model chose
    human_weight: Factor = 1.0  # Weight of a winner that people ranked first
    edit_weight: Factor = 1.0  # Weight of an edited answer
    max_mean_loss_points: Points = 1.0
    """Percentage points that the mean accuracy of a language may lose in the gate."""
    max_task_loss_points: Points = 3.0
    """Percentage points that the accuracy of one task may lose in the gate."""
    min_win_rate: Share = 0.5
    """Share of held-out prompts on which the reward model prefers the new model; ties count half."""
    control: bool = False
    """Whether a control is trained beside the new model, on random winners of the same prompts. The gate only reports
    it: what it gains, choosing did not bring."""

    people: list[str] = dataclasses.field(default_factory=list)
    """Names of the annotators of a team, such as their e-mail addresses: each is asked a part of the queue. Empty:
    there is no team, and anybody labels anything."""
    per_prompt: Count = 2
    """People of the team who are asked about one prompt."""
    due_days: Annotated[float, Range(0, 3650, above=True)] = 7.0
    """Days after the step queue in which a round waits for all labels of the team; then for one of each prompt."""
    gold_share: Annotated[float, Range(0, 0.5)] = 0.1
    """Gold questions of each person, as a share of the prompts that the person is asked; rounded up, and 3 or more."""
    min_gold: Share = 0.7
    """Share of the gold questions' pairs of answers that a person must order rightly; the labels of those who order
    fewer are set aside."""
    set_aside: bool = True
    """Whether such labels are set aside; otherwise they count like all others."""
    min_agreement: Annotated[float, Range(-1, 1)] = 0.0
    """Kendall's tau of two people's rankings of a prompt, below which the prompt goes to the adjudicator."""
    adjudicator: str | None = None
    """Name of the one whose ranking decides where people disagree. None: their points are added up."""

    def __post_init__(self) -> None:
        check(self, "align.")
        self._check_people()
        if not self.allow_fraction and not 0.05 <= self.prompt_fraction <= 0.10:
            raise ConfigError(
                f"align prompt_fraction={self.prompt_fraction} is outside [0.05, 0.10]; change it or set allow_fraction"
            )

    def _check_people(self) -> None:
        names = [*self.people, *([] if self.adjudicator is None else [self.adjudicator])]
        if odd := [name for name in names if not re.fullmatch(NAME, name)]:
            raise ConfigError(f"align.people: {odd[0]!r} is no name; give letters, digits and any of . _ + @ -")
        if twice := [name for name, count in Counter(names).items() if count > 1]:
            raise ConfigError(f"align.people and align.adjudicator name {twice[0]!r} twice; give each name once")
        same = {name.casefold(): name for name in reversed(names)}  # the first of those that differ in case only
        if alike := [name for name in names if same[name.casefold()] != name]:
            first, other = same[alike[0].casefold()], alike[0]
            raise ConfigError(
                f"align.people and align.adjudicator name {first!r} and {other!r}, which differ in case only; rename"
                " one"
            )
        if self.people and self.per_prompt > len(self.people):
            raise ConfigError(
                f"align.per_prompt={self.per_prompt} is more than the {len(self.people)} of align.people; lower it"
            )
        if self.adjudicator is not None and not self.people:
            raise ConfigError("align.adjudicator decides between people, but align.people names nobody; name them")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class AlignInputs:
    """The files and models that an alignment starts from."""

    sft: list[Path]  # The files of the SFT set of the first round
    models: list[Path]
    """Chat models, the oldest first; the first round starts from the best."""
    reward: str
    """What scores the answers: the folder of a calibrated reward model, a Python function MODULE:FUNCTION, or a .toml
    file with a judge or a weighted sum (docs/ALIGNMENT.md)."""
    evaluation_set: Path
    """Held-out questions with their answers, for the choice of a model and the gate."""
    gold: list[Path] = dataclasses.field(default_factory=list)
    """Preferences of people from outside the rounds, for the next reward model."""
    gold_questions: Path | None = None
    """File of questions whose right order is known, which are mixed into the queue of each of the team: preferences, or
    questions with their answers (docs/FORMATS.md)."""
    safety: Path | None = None  # File of strings that no winner may contain, one per line
    exclude: Path | None = None
    """File of ids of SFT examples that may not be drawn, one per line, such as those of an evaluation set."""

    def resolved(self) -> dict[str, Any]:
        """The fields by name, as `resolved` gives them."""
        return {field.name: resolved(field.name, getattr(self, field.name)) for field in dataclasses.fields(self)}


def resolved(name: str, value: Any) -> Any:
    """The value of a field of AlignInputs as JSON holds it: its paths absolute, and strings.

    Patterns among the files of records stand for the files that they match now.
    """
    if name == "reward":
        return absolute(value)
    return _absolute(records.expand(value) if name in ("sft", "gold") else value)


def _absolute(value: Any) -> Any:
    if isinstance(value, list):
        return [_absolute(path) for path in value]
    return None if value is None else str(paths.resolved(value))
