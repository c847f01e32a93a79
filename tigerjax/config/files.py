"""Reads config files, and writes configs as text."""

import dataclasses
import importlib.util
import re
import traceback
from pathlib import Path
from typing import Any

from tigerjax.config.run import RunConfig
from tigerjax.errors import ConfigError, near_miss

RENAMED = {"batch_rows": "global_batch_size", "accumulate": "gradient_accumulation_steps"}
"""Fields of a run that had other names in 0.2.0, by their old name."""


def dump(config: Any, prefix: str = "") -> list[str]:
    """The lines `a.b = value` of a config, sorted. They are printed, saved with checkpoints and compared in tests.

    `prefix` stands before each name.
    """
    lines: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            # A subclass of what the field names: the sizes of another family, the settings of another objective.
            if isinstance(field.type, type) and type(value) is not field.type:
                lines.append(f"{prefix}{field.name} = {type(value).__name__}")
            lines += dump(value, f"{prefix}{field.name}.")
        else:
            lines.append(f"{prefix}{field.name} = {value!r}")
    return sorted(lines)


def load(path: str | Path) -> RunConfig:
    """The RunConfig that a config file's function `config()` returns.

    Raises ConfigError, with what to change, where there is no such file, where it is no Python or fails (with the
    line), or where its `config()` is missing or returns something else.
    """
    path = Path(path)
    if not path.is_file():
        hint = near_miss(str(path), map(str, path.parent.glob("*.py"))) or "; the repository's configs/ has examples"
        if path.is_dir():
            raise ConfigError(f"config file {path} is a folder{hint}")
        raise ConfigError(f"config file {path} does not exist{hint}")
    spec = importlib.util.spec_from_file_location(f"tigerjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "config"):
            raise ConfigError(f"config file {path} has no function `config() -> RunConfig`")
        built = module.config()
    except ConfigError:
        raise
    except Exception as error:  # whatever a user's Python may raise
        what = error.msg if isinstance(error, SyntaxError) else error
        place = _place(error, path)
        raise ConfigError(f"config file {place}: {type(error).__name__}: {what}{_other_name(str(error))}") from error
    if not isinstance(built, RunConfig):
        raise ConfigError(f"config() of {path} returned {type(built).__name__}, not RunConfig")
    return built


def _other_name(message: str) -> str:
    """What an unknown field of a config is called now, or what it may be meant to be, as the end of a message."""
    unknown = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", message)
    if unknown is None or "Did you mean" in message:
        return ""
    if (old := unknown[2]) in RENAMED:  # of a class, or of a function such as presets.adamw
        return f"; {old} is now {RENAMED[old]}"
    return near_miss(old, _fields_by_class(RunConfig).get(unknown[1], []))


def _fields_by_class(config: type) -> dict[str, list[str]]:
    """The fields of a config dataclass and of those in it, by the name of the class."""
    fields = dataclasses.fields(config)
    found = {config.__name__: [field.name for field in fields]}
    for field in fields:
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= _fields_by_class(field.type)
    return found


def _place(error: Exception, path: Path) -> str:
    """PATH:LINE of the line in the config file where the error happened; only PATH where no line is known."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == path.resolve():
        return f"{path}:{error.lineno}"
    frames, here = traceback.extract_tb(error.__traceback__), path.resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == here]
    return f"{path}:{lines[-1]}" if lines else str(path)
