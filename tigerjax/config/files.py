"""Reads config files, and writes configs as text."""

import dataclasses
import importlib.util
import traceback
from pathlib import Path
from typing import Any

from tigerjax.config.run import RunConfig
from tigerjax.errors import ConfigError, near_miss


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
    """The RunConfig that a config file's function `config()` returns. ConfigError names what is wrong with the file."""
    path = Path(path)
    if not path.is_file():
        hint = near_miss(str(path), map(str, path.parent.glob("*.py"))) or "; the repository's configs/ has examples"
        if path.is_dir():
            raise ConfigError(f"config file {path} is a folder{hint}")
        raise ConfigError(f"config file {path} does not exist{hint}")
    spec = importlib.util.spec_from_file_location(f"tigerjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file; give one")
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
        raise ConfigError(f"config file {_place(error, path)}: {type(error).__name__}: {what}") from error
    if not isinstance(built, RunConfig):
        raise ConfigError(
            f"config() of {path} returned {type(built).__name__}, not RunConfig; end it with `return RunConfig(…)`"
        )
    return built


def _place(error: Exception, path: Path) -> str:
    """PATH:LINE of the line in the config file where the error happened; only PATH where no line is known."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").resolve() == path.resolve():
        return f"{path}:{error.lineno}"
    frames, here = traceback.extract_tb(error.__traceback__), path.resolve()
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == here]
    return f"{path}:{lines[-1]}" if lines else str(path)
