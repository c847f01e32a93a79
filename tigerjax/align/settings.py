"""The settings of an alignment, DIR/align.json, which hold for its rounds, and their change between steps.

What no finished step of the round under way has used may be changed at any time. Rounds that have ended stay as they
are.
"""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.align.config import AlignConfig
from tigerjax.align.steps import USES, under_way
from tigerjax.config import NOT_DECISIVE
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate.questions import ANSWERS_FILE
from tigerjax.files import manifest, own, paths
from tigerjax.files.foreign import shown

FILE = "align.json"
SAMPLING = {"n", "temperature", "top_p", "top_k", "max_new_tokens"}
USED_BY: dict[str, tuple[str, ...]] = {
    **{field: tuple(step for step in USES if field in USES[step]) for fields in USES.values() for field in fields},
    "sft": ("prompts", "mix"),
    "exclude": ("prompts",),
    "models": ("candidate",),
    "evaluation_set": ("candidate", "gate"),
    "reward": ("score", "gate"),
    "gold": ("rank",),
    "gold_questions": ("queue",),
    "safety": ("rank",),
    "score_batch_size": (),
    **dict.fromkeys(("n", "temperature", "top_p", "top_k"), ("sample",)),
    "max_new_tokens": ("candidate", "sample", "gate"),
}
"""The steps that use a setting; the seed also decides how answers are sampled. `candidate` is the choice of a model."""
CONFIG_USED_BY: dict[str, tuple[str, ...]] = {
    **{f"compute.{name}": () for name in NOT_DECISIVE},
    "model": ("candidate", "sample", "train", "gate"),
    "compute": ("candidate", "sample", "score", "train", "gate"),
    "data.tokenizer": ("candidate", "sample", "score", "labels", "train", "gate"),
    "data.seq_len": ("candidate", "sample", "score", "labels", "train", "gate"),
    "mesh": ("train",),
}
"""The steps whose results a field of the config decides, or all fields that begin so; the first that fits counts. The
others are used by the training only."""


RENAMED = {
    "candidates": "models",
    "questions": "evaluation_set",
    "score_rows": "score_batch_size",
    "reward_model": "reward",
}
"""Settings that have other names in the files of older versions, by their old name."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class AlignSettings:
    """What the rounds are run with. Paths are absolute."""

    config: str
    """Config file of the training that ends each round."""
    overrides: list[str]
    """Words of the command line that override fields of the config."""
    align: dict[str, Any]
    """Fields of AlignConfig."""
    sampling: dict[str, Any]
    """n, temperature, top_p, top_k, max_new_tokens."""
    sft: list[str]
    """The files of the SFT set of the first round."""
    models: list[str]
    """Chat models, the oldest first; the first round starts from the best."""
    reward: str
    """What scores the answers: a folder, MODULE:FUNCTION or a .toml file (`rewards.given`)."""
    score_batch_size: int
    """Answers in one batch of the reward model."""
    evaluation_set: str
    """Held-out questions with their answers, for the choice of a model and the gate."""
    gold: list[str]
    """Preferences of people for the next reward model."""
    safety: str | None
    """File of strings that no winner may contain, one per line."""
    exclude: str | None
    """File of prompt ids that may not be drawn, one per line, such as those of an evaluation set."""
    gold_questions: str | None = None
    """File of questions whose right order is known."""


def write(folder: Path, settings: AlignSettings) -> None:
    """Writes DIR/align.json; ConfigError for a folder that holds other settings, which `change` changes."""
    old = read(folder) if (folder / FILE).is_file() else None
    if old is not None and old != settings:
        changed = [f.name for f in dataclasses.fields(settings) if getattr(old, f.name) != getattr(settings, f.name)]
        raise ConfigError(
            f"{folder / FILE} holds other settings ({', '.join(changed)} differ); give another --out, or change them"
            f" with `tigerjax align set {folder}`"
        )
    _store(folder, settings)


def read(folder: Path) -> AlignSettings:
    """The settings of DIR/align.json.

    Raises ConfigError where there is no such file, DataError where it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; `tigerjax align init CONFIG --out {folder} …` writes it")
    with own.fields(path, "write it again"):
        stored = own.read_object(path, "write it again")
        given = {RENAMED.get(name, name): value for name, value in stored.items()}
        if isinstance(given.get("sft"), str):  # one file, in 0.2.0
            given["sft"] = [given["sft"]]
        settings = AlignSettings(**given)
        for name, kind in typing.get_type_hints(AlignSettings).items():
            if not _is(getattr(settings, name), kind):
                raise TypeError(f"{name} is {shown(getattr(settings, name))}")
        # Fields that this version has and the file lacks get their defaults.
        settings = dataclasses.replace(settings, align=dataclasses.asdict(AlignConfig(**settings.align)))
        if settings.sampling.keys() != SAMPLING or any(type(n) not in (int, float) for n in settings.sampling.values()):
            raise TypeError(f"sampling is {shown(settings.sampling)}")
    return settings


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON is of a type such as `list[str]` or `str | None`."""
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    return isinstance(value, dict if typing.get_origin(kind) is dict else kind) and not isinstance(value, bool)


def changed(folder: Path, changes: Mapping[str, Any], *, again: bool) -> AlignSettings:
    """The settings with `changes` {name of a setting, of a field of AlignConfig or of a sampling option: value}.

    ConfigError for one that a finished step of the round under way has used, unless `again` allows to do these steps
    again.
    """
    old = read(folder)
    index = under_way(folder / "rounds")
    values: dict[str, Any] = {"align": dict(old.align), "sampling": dict(old.sampling)}
    for name, value in changes.items():
        part = next((part for part in ("align", "sampling") if name in values[part]), None)
        before = values[part][name] if part else getattr(old, name)
        if value == before:
            continue
        _refuse_used(folder, index, name, repr(before), USED_BY[name], again)
        if part:
            values[part][name] = value
        else:
            values[name] = value
    AlignConfig(**values["align"])  # refuses values that cannot work
    return dataclasses.replace(old, **values)


def overridden(folder: Path, settings: AlignSettings, given: Mapping[str, Any], *, again: bool) -> AlignSettings:
    """The settings with fields of the config overridden, {"optim.peak_lr": 3e-4}; ConfigError as in `changed`."""
    index, words = under_way(folder / "rounds"), _by_option(settings.overrides)
    for name, value in given.items():
        option = f"--{name.replace('_', '-')}"
        stem, dot, last = option.removeprefix("--").rpartition(".")
        new, off = _words(option, value), f"--{stem}{dot}no-{last}"
        before = words.get(option) or words.get(off)
        if new == before:
            continue
        part = next((part for part in CONFIG_USED_BY if name == part or name.startswith(f"{part}.")), "")
        was = " ".join(before[1:] or before) if before else "as in the config"
        _refuse_used(folder, index, option, was, CONFIG_USED_BY.get(part, ("train",)), again)
        words.pop(option, None)
        words.pop(off, None)
        words[new[0]] = new
    return dataclasses.replace(settings, overrides=[word for some in words.values() for word in some])


def _words(option: str, value: Any) -> list[str]:
    """The words that give an option this value."""
    if isinstance(value, bool):
        stem, dot, last = option.removeprefix("--").rpartition(".")
        return [option if value else f"--{stem}{dot}no-{last}"]
    return [option, *map(str, value if isinstance(value, tuple | list) else [value])]


def _by_option(words: Sequence[str]) -> dict[str, list[str]]:
    """["--a", "1", "--b.c"] -> {"--a": ["--a", "1"], "--b.c": ["--b.c"]}"""
    found: dict[str, list[str]] = {}
    last: list[str] = []
    for word in words:
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            last = found[name.replace("_", "-")] = [name.replace("_", "-"), *([value] if equals else [])]
        else:
            last.append(word)
    return found


def _refuse_used(folder: Path, index: int, name: str, before: Any, steps: Sequence[str], again: bool) -> None:
    """ConfigError for a setting that a finished step of the round under way has used, unless `again`."""
    done = [step for step in steps if manifest.read(folder / "rounds" / f"{index:02d}" / step) is not None]
    if done and not again:
        raise ConfigError(
            f"{name}={before} has been used by step {done[0]} of round {index:02d}; change it when the round has"
            f" ended, or give --again: then {', '.join(done)} and the steps that follow are done again"
        )


def replace(folder: Path, settings: AlignSettings) -> None:
    """Writes DIR/align.json over other settings."""
    _store(folder, settings)


def question_files(questions: str) -> list[Path]:
    """The file of the held-out questions, and the file of answers beside it where there is one."""
    path = paths.of(questions)
    others = path.with_name(ANSWERS_FILE)
    return [path, others] if others.is_file() else [path]


def read_lines(path: str | None) -> list[str]:
    """The lines of a UTF-8 file that are not blank; no lines without a file.

    Raises DataError for a file that is not UTF-8.
    """
    if path is None:
        return []
    try:
        text = paths.of(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; write it as UTF-8, one entry per line") from error
    return [line for line in text.splitlines() if line.strip()]


def _store(folder: Path, settings: AlignSettings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    manifest.write_json(folder / FILE, dataclasses.asdict(settings))
