"""Reads config files, and writes and reads configs as text."""

import ast
import contextlib
import dataclasses
import importlib.util
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax.config.model import LATER
from tigerjax.config.run import RunConfig
from tigerjax.errors import USERS, ConfigError, line_in, near_miss, of_user

DUMPED = "config.txt"
"""In a run's folder: its config as `dump` writes it."""

PACKAGE = __name__.partition(".")[0]

RENAMED = {"batch_rows": "global_batch_size", "accumulate": "gradient_accumulation_steps"}
"""Fields of a run that had other names in 0.2.0, by their old name."""
OLDER = {name: older for older, name in RENAMED.items()}
"""A dump that an older version wrote is read with these names."""


def dump(config: Any, prefix: str = "") -> list[str]:
    """The lines `a.b = value` of a config, sorted. They are printed, saved with checkpoints and compared in tests.

    `prefix` stands before each name. A field marked LATER has no line while it has its default.
    """
    lines: list[str] = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.metadata.get(LATER) and value == field.default:
            continue
        if dataclasses.is_dataclass(value):
            # A subclass of what the field names: the sizes of another family, the settings of another objective.
            if isinstance(field.type, type) and type(value) is not field.type:
                lines.append(f"{prefix}{field.name} = {type(value).__module__}.{type(value).__name__}")
            lines += dump(value, f"{prefix}{field.name}.")
        else:
            lines.append(f"{prefix}{field.name} = {value!r}")
    return sorted(lines)


def load(path: str | Path) -> RunConfig:
    """The RunConfig that a config file's function `config()` returns, or that of a run whose folder `path` is.

    Raises ConfigError, with what to change, where there is no such file, where it is no Python or fails (with the
    line), or where its `config()` is missing or returns something else.
    """
    path = Path(path)
    if (path / DUMPED).is_file():
        return _of_dump(path / DUMPED)
    if not path.is_file():
        hint = near_miss(str(path), map(str, path.parent.glob("*.py"))) or "; the repository's configs/ has examples"
        if path.is_dir():
            raise ConfigError(f"config file {path} is a folder, and not that of a run, which has a {DUMPED}{hint}")
        raise ConfigError(f"config file {path} does not exist{hint}")
    spec = importlib.util.spec_from_file_location(f"tigerjax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"config file {path} is not a Python file; give one")
    module = importlib.util.module_from_spec(spec)
    if (folder := str(path.resolve().parent)) not in sys.path:
        sys.path.append(folder)  # for what stands beside it: other configs, the mixture
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "config"):
            raise ConfigError(f"config file {path} has no function `config() -> RunConfig`")
        built = module.config()
    except ConfigError:
        raise
    except USERS as error:
        kind, text = of_user(error)
        other = _other_name(str(error))
        raise ConfigError(f"config file {line_in(error, path)}: {kind}: {text}{other}") from error
    if not isinstance(built, RunConfig):
        raise ConfigError(
            f"config() of {path} returned {type(built).__name__}, not RunConfig; end it with `return RunConfig(…)`"
        )
    return built


def _other_name(message: str) -> str:
    """What an unknown field of a config is called now, or what it may be meant to be, as the end of a message."""
    unknown = re.search(r"(\w+)(?:\.__init__)?\(\) got an unexpected keyword argument '(\w+)'", message)
    if unknown is None:
        return ""
    if (old := unknown[2]) in RENAMED:  # of a class, or of a function such as presets.adamw
        return f"; {old} is now {RENAMED[old]}"
    if "Did you mean" in message:  # Python 3.13 says it itself
        return ""
    return near_miss(old, _fields_by_class(RunConfig).get(unknown[1], []))


def _fields_by_class(config: type) -> dict[str, list[str]]:
    """The fields of a config dataclass and of those in it, by the name of the class."""
    fields = dataclasses.fields(config)
    found = {config.__name__: [field.name for field in fields]}
    for field in fields:
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            found |= _fields_by_class(field.type)
    return found


def _of_dump(path: Path) -> RunConfig:
    """The RunConfig whose `dump` is the text of `path`."""
    values: dict[str, str] = {}
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        name, equals, text = line.partition(" = ")
        if not equals or not name:
            raise ConfigError(f"{path}:{i}: {line[:80]!r} is no line of a config; give the config file of the run")
        values[name] = text
    run: RunConfig = _built(RunConfig, values, "", path)
    if values:
        raise ConfigError(f"{path}: no field {min(values)} in this version; give the config file of the run")
    return run


def part_of_dump(kind: Any, prefix: str, lines: Sequence[str], path: Path) -> Any:
    """The dataclass of a run's dumped lines that begin with `prefix`, such as `optim.`; `path` names their place.

    Raises ConfigError for lines that this version has no field for, and where one is missing.
    """
    values = dict(line.split(" = ", 1) for line in lines if line.startswith(prefix))
    built = _built(kind, values, prefix, path)
    if values:
        raise ConfigError(f"{path}: no field {min(values)} in this version; give a checkpoint of this version")
    return built


def _built(kind: Any, values: dict[str, str], prefix: str, path: Path) -> Any:
    """A dataclass of the values whose names begin with `prefix`. They are taken out of `values`."""
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name}"
        if name not in values and (older := f"{prefix}{OLDER.get(field.name)}") in values:
            name = older
        if dataclasses.is_dataclass(field.type):
            named = values.pop(name, None)
            inner = field.type if named is None else _subclass(field.type, named, f"{path}: {name}")
            if any(given.startswith(f"{name}.") for given in values) or named is not None or _required(field):
                fields[field.name] = _built(inner, values, f"{name}.", path)
        elif name in values:
            try:
                fields[field.name] = ast.literal_eval(values.pop(name))
            except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
                raise ConfigError(f"{path}: the value of {name} cannot be read; give the config file") from error
        elif _required(field):
            raise ConfigError(f"{path}: {name} is missing; give the config file of the run")
    try:
        return kind(**fields)
    except TypeError as error:  # a value of another type, which a comparison meets
        raise ConfigError(f"{path}: {error}; give the config file of the run") from error


def _subclass(of: Any, named: str, where: str) -> type:
    """The subclass of `of` that a dump names by its module and its name. Only modules of this package are imported for
    it: a text must not choose what code runs."""
    module, _, name = named.rpartition(".")
    parts = module.split(".")
    if parts[0] == PACKAGE and all(part.isidentifier() and not part.startswith("_") for part in parts):
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    found = getattr(sys.modules.get(module), name, None)
    if not (isinstance(found, type) and issubclass(found, of)):
        raise ConfigError(f"{where} is a {named[:80]}, which is not in this version; give the config file of the run")
    return found


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
