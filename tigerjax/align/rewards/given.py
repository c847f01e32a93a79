"""What a reward is called wherever one is given: a folder, MODULE:FUNCTION, or a TOML file with the parts of a sum.

[helpful]                         # the name of a part: scores stand below it in scored.jsonl and in the report
reward = "runs/reward/model"      # a reward model or MODULE:FUNCTION; paths count from this file

[safe]
weight = 0                        # adds nothing to the sum
floor = 0.5                       # but an answer below this never wins
reward = "checks:safe"

[style]
weight = 0.2

[style.judge]
url = "http://127.0.0.1:8000/v1"  # the other fields are those of JudgeConfig
"""

import contextlib
import dataclasses
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align.rewards.config import MOST_PARTS, JudgeConfig, PartConfig
from tigerjax.errors import ConfigError, DataError, TigerjaxError, near_miss
from tigerjax.files import paths
from tigerjax.files.foreign import shown

FUNCTION = r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)"
SUFFIX = ".toml"


class Given(NamedTuple):
    """A reward as it was given."""

    text: str
    parts: Mapping[str, PartConfig]
    """By name. A reward that is no file is one part with an empty name and weight 1."""

    @property
    def summed(self) -> bool:
        """Whether it is a file, whose parts have names."""
        return "" not in self.parts

    @property
    def floors(self) -> dict[str, float]:
        """The floors by the names of their parts."""
        return {name: part.floor for name, part in self.parts.items() if part.floor is not None}


@contextlib.contextmanager
def naming(of: Given, name: str) -> Iterator[None]:
    """Puts the file and the part in front of an error about what the part names, which has only the path that is wrong.

    A judge's own errors name the field; of any other part it is `reward`."""
    try:
        yield
    except TigerjaxError as error:
        if of.summed:
            field = "" if of.parts[name].judge is not None else " reward"
            error.args = (f"{of.text}: [{name}]{field}: {error}",)
        raise


def is_function(text: str) -> bool:
    """Whether a reward is the name of a Python function, MODULE:FUNCTION."""
    return re.fullmatch(FUNCTION, text) is not None


def absolute(text: str) -> str:
    """The reward with an absolute path; the name of a function stays as it is."""
    return text if is_function(text) else str(paths.resolved(paths.of(text)))


def read(text: str) -> Given:
    """The reward that is called `text`; a file's paths are made absolute.

    Raises ConfigError for a file with a wrong or unknown field, DataError where there is none.
    """
    if not text.endswith(SUFFIX):
        return Given(text, {"": PartConfig(reward=text)})
    path = paths.of(text)
    try:
        tables = tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file of rewards; correct the path") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, and a reward of that name is a file; give the file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; write it as UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}; mend it") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: tables lie too deep in each other; mend it") from error
    if not 0 < len(tables) <= MOST_PARTS:
        raise ConfigError(f"{path}: has {len(tables)} parts, needs 1 to {MOST_PARTS}; a part is a table with a name")
    parts = {name: _part(f"{path}: [{name}]", table, path.parent) for name, table in tables.items()}
    if all(part.weight == 0 for part in parts.values()):
        raise ConfigError(f"{path}: every weight is 0, so all answers score the same; give one part a weight")
    if unnamed := [name for name in parts if not name.strip() or len(name) > 40 or not name.isprintable()]:
        raise ConfigError(f"{path}: [{shown(unnamed[0])}] must be a name of 1 to 40 letters; change it")
    return Given(text, parts)


def _part(where: str, table: Any, beside: Path) -> PartConfig:
    fields = _typed(where, table, PartConfig)
    if (judge := fields.get("judge")) is not None:
        asked = _typed(f"{where} judge", judge, JudgeConfig)
        for name in ("template", "key_file", "cache"):
            if name in asked:
                asked[name] = _from(beside, asked[name])
        asked.setdefault("cache", _from(beside, "judge-replies"))
        fields["judge"] = _made(where, JudgeConfig, asked)
    elif "reward" in fields and not is_function(fields["reward"]):
        if fields["reward"].endswith(SUFFIX):
            raise ConfigError(f"{where}: {fields['reward']} is a file of rewards itself; write its parts here")
        fields["reward"] = _from(beside, fields["reward"])
    made: PartConfig = _made(where, PartConfig, fields)
    return made


def _from(beside: Path, path: str) -> str:
    return path if paths.on_bucket(path) else str(paths.resolved(beside / path))


def _made(where: str, config: Any, fields: dict[str, Any]) -> Any:
    try:
        return config(**fields)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; correct the file") from error


def _typed(where: str, table: Any, config: type) -> dict[str, Any]:
    """The fields of a table; ConfigError for one that `config` does not have, lacks or has of another type."""
    if not isinstance(table, dict):
        raise ConfigError(f"{where} is {shown(table)}, which stands in no table; write it below the name of a part")
    kinds = typing.get_type_hints(config)
    for name, value in table.items():
        if name not in kinds:
            raise ConfigError(f"{where}: {shown(name)} is no field here{near_miss(name, kinds)}; leave it out")
        for word, kind in (("text", str), ("a table", dict)):
            if _holds(kinds[name], kind) and not isinstance(value, kind):
                raise ConfigError(f"{where}: {name} is {shown(value)}, must be {word}")
        if isinstance(value, str) and (not value.strip() or not value.isprintable()):
            raise ConfigError(f"{where}: {name} is {shown(value)}, must be a text of characters that can be seen")
    needed = [
        f.name
        for f in dataclasses.fields(config)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and f.name not in table
    ]
    if needed:
        raise ConfigError(f"{where}: lacks {', '.join(needed)}; give each of them")
    return dict(table)


def _holds(annotation: Any, kind: type) -> bool:
    """Whether a field is a text, or is one or None; the same for a table, which is also the form of a judge."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    origins = [typing.get_origin(option) or option for option in options]
    return kind in origins or (kind is dict and JudgeConfig in origins)
