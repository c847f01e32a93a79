"""The settings of validation: what is measured on held-out data while a run trains, and when."""

import dataclasses
import re

from tigerjax.config.ranges import Count, check
from tigerjax.errors import ConfigError

NAME = r"(?!\.)[\w.-]+"
"""Of a held-out set."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Validation: the loss and the next-token accuracy on held-out sets, while the run trains.

    The sets are those of `sets`, and what the sources of the mixture hold out (`Source.held_out`).
    """

    every_steps: Count | None = None
    """Steps between two validations; the last step is validated too. None: only the last step is."""
    sets: tuple[str, ...] = ()
    """Held-out sets: NAME=PATH, or a PATH whose file name is the NAME. PATH is a file, a pattern or a folder of
    documents or SFT examples. A NAME that occurs again gets further files."""
    questions: tuple[str, ...] = ()
    """Checkable questions, whose greedy answers are counted: files of {id, lang, task, prompt, answers}, named as the
    sets are."""
    max_new_tokens: Count = 64  # Tokens of an answer to one of the questions
    chat: bool = True
    """Whether the questions stand between the markers of a chat; False asks a base model, as `sample --no-chat`."""
    metric: str | None = None
    """The figure that `patience` and `checkpoint.keep_best` go by, such as wiki/loss_nats, wiki/source/books/loss_nats
    or sft/task/qa/accuracy. None: the loss of the only set."""
    patience: Count | None = None
    """The run ends early after so many validations in a row without a better figure than the best. None: never."""

    def __post_init__(self) -> None:
        check(self, "eval.")
        if twice := self.named("sets").keys() & self.named("questions").keys():
            raise ConfigError(
                f"eval: {min(twice)} names a set and a file of questions; give one of them another name, NAME=PATH"
            )
        for field in dataclasses.fields(self) if not self.questions else ():
            if field.name in ("max_new_tokens", "chat") and (value := getattr(self, field.name)) != field.default:
                raise ConfigError(
                    f"eval.{field.name}={value!r} is about the answers to eval.questions, and there are none; give"
                    f" those, or leave eval.{field.name} at {field.default!r}"
                )
        if self.patience is not None and self.every_steps is None:
            raise ConfigError(
                f"eval.patience={self.patience} counts validations, and eval.every_steps is None: only the last step is"
                " validated; set eval.every_steps"
            )

    def named(self, field: str) -> dict[str, tuple[str, ...]]:
        """{name: its paths} of the field "sets" or "questions", in its order.

        Raises ConfigError for an entry without a name or a path.
        """
        found: dict[str, tuple[str, ...]] = {}
        for given in getattr(self, field):
            named = re.fullmatch(rf"({NAME})=(.+)", given)
            name, path = named.groups() if named else (given.rstrip("/").rpartition("/")[2].partition(".")[0], given)
            if not re.fullmatch(NAME, name):
                raise ConfigError(f"eval.{field}: {given!r} has no name or no path; write NAME=PATH, such as a=b.jsonl")
            found[name] = (*found.get(name, ()), path)
        return found
