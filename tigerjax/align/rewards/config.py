"""The settings in a file of rewards: the parts of a sum, and how a judge is asked."""

import dataclasses
import json
from typing import Annotated, Any

from tigerjax.align import server_address
from tigerjax.config.ranges import CountOrZero, Range, Share, check
from tigerjax.errors import ConfigError

ScoreValue = Annotated[float, Range(-1e6, 1e6)]
Seconds = Annotated[float, Range(0, 86_400, above=True)]
CHAT = "/chat/completions"


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class JudgeConfig:
    """A language model behind an OpenAI-compatible API, which is asked for a number for each answer."""

    url: str
    """Address of the API, up to and including /v1."""
    model: str  # Name of the model there
    template: str
    """File with the question to the judge. {{question}}, {{conversation}} and {{answer}} in it are filled in."""
    lowest: ScoreValue  # The lowest score that the judge may give
    highest: ScoreValue
    """The highest one. A number outside of this range is no score."""
    key_env: str | None = None
    """The environment variable that holds the key of the API."""
    key_file: str | None = None  # File that holds the key and nothing else
    body: dict[str, Any] = dataclasses.field(default_factory=lambda: {"temperature": 0, "max_tokens": 512})
    """Fields of a request besides `model` and `messages`."""
    cache: str = "judge-replies"
    """Folder for the judge's replies. A question that stands there is not asked again."""
    calls: Annotated[int, Range(1, 256)] = 4  # Questions that are asked at the same time
    timeout_s: Seconds = 120.0  # How long one reply may take
    patience_s: Annotated[float, Range(0, 86_400)] = 600.0
    """How long a question is asked again while the judge does not answer; then the command stops."""
    asked_again: CountOrZero = 2
    """How many times more a question is asked whose reply has no score in it."""
    max_unread: Share = 0.0
    """Share of the answers that may go without a score, because no reply to them has one or the API refuses the
    question about them (HTTP 400, 413 or 422), as a filter of content does. They are counted."""

    def __post_init__(self) -> None:
        check(self, "judge.")
        if not self.lowest < self.highest:
            raise ConfigError(f"judge.lowest={self.lowest} must be below judge.highest={self.highest}")
        if self.key_env and self.key_file:
            raise ConfigError("judge.key_env and judge.key_file are both given; keep one of them")
        if taken := sorted({"model", "messages", "stream"} & self.body.keys()):
            raise ConfigError(f"judge.body has {taken[0]}, which is set for each question; leave it out")
        try:
            json.dumps(self.body, allow_nan=False)
        except (TypeError, ValueError) as error:  # a date or nan: TOML has them, JSON has not
            raise ConfigError(
                f"judge.body holds what JSON has not ({error}); give texts, numbers, lists or tables"
            ) from error
        self._refuse_address()

    def _refuse_address(self) -> None:
        parts = server_address.split(self.url)
        if parts is None:
            raise ConfigError(f"judge.url={self.url!r} must be an address such as http://127.0.0.1:8000/v1")
        if parts.username is not None or parts.password is not None:
            raise ConfigError("judge.url holds a user or a password; put the key into judge.key_file or judge.key_env")
        if parts.path.rstrip("/").endswith(CHAT):
            raise ConfigError(f"judge.url={self.url!r} must end before {CHAT}, such as in /v1; leave that out")


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class PartConfig:
    """One part of a reward: a reward model, a function, or a judge, with its weight in the sum."""

    reward: str | None = None
    """Folder of a calibrated reward model, or a Python function, MODULE:FUNCTION."""
    judge: JudgeConfig | None = None
    weight: ScoreValue = 1.0
    """The score is multiplied by this before the parts are added up."""
    floor: ScoreValue | None = None
    """An answer whose score is below this never wins, whatever the sum is."""

    def __post_init__(self) -> None:
        check(self, "")
        if (self.reward is None) == (self.judge is None):
            raise ConfigError("a part of a reward is `reward` or `judge`; give one of them")


MOST_PARTS = 16
