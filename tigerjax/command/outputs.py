"""Where a command may not write: found before it does any work, which would be lost."""

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from tigerjax.command.options import Option
from tigerjax.errors import ConfigError

OUTPUTS = ("--out", "out", "name", "--json", "--work", "--cache-dir")
"""The options that name what a command writes, those without hyphens being words in a fixed place. Other paths are
read, but those that are annotated as written."""
JSON = "--json"
LONGEST_NAME = 255  # bytes of a name, on the file systems of Linux and macOS


def refuse(options: Sequence[Option], given: dict[str, Any]) -> None:
    """ConfigError where an output of the command cannot be written, or would replace one of its inputs.

    `given` are the values by the name of their option; the others have their defaults. Of a path in a bucket only the
    ending is looked at.
    """
    values = {o.name: given.get(o.name, o.default) for o in options if o.is_path}
    outputs = [o.name for o in options if o.is_path and is_output(o)]
    inputs = {path.absolute(): name for name, value in values.items() if name not in outputs for path in on_disk(value)}
    files = {o.name for o in options if o.name == JSON or o.is_file}
    for name in outputs:
        for path in on_disk(values.get(name)):
            if (read := inputs.get(path.absolute())) is not None:
                raise ConfigError(f"{name} {path} would replace what {read.lstrip('-')} names; give another path")
            if name in files and os.path.isdir(path):
                raise ConfigError(f"{name} {path} is a folder; give a file, such as {path / 'figures.json'}")
            if name not in files and os.path.isfile(path):
                raise ConfigError(f"{name} {path} is a file; give a folder")
            _refuse_without_folder(name, path)
    for option in options:
        for path in paths_of(values.get(option.name)) if option.endings else ():
            if path.suffix.lower() not in option.endings:
                forms = " or ".join(option.endings)
                raise ConfigError(
                    f"{option.name} {path} must end in {forms}, the forms that are written here; give another name"
                )
    for name in ("--out", "out", "name"):
        if same := set(on_disk(values.get(JSON))) & set(on_disk(values.get(name))):
            raise ConfigError(f"--json and {name} are both {same.pop()}; give another file to --json")


def is_output(option: Option) -> bool:
    """Whether a command writes what this option names."""
    return option.name in OUTPUTS or option.is_written


def paths_of(value: Any) -> list[Any]:
    """The paths of a value; one in a bucket is no pathlib.Path, but a PurePath."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, PurePath)]


def on_disk(value: Any) -> list[Path]:
    """Those of the paths that lie on this machine's disk."""
    return [path for path in paths_of(value) if isinstance(path, Path)]


def _refuse_without_folder(name: str, path: Path) -> None:
    """ConfigError unless the nearest folder above the path that exists is one, and may be written to."""
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    if any(len(os.fsencode(part)) > LONGEST_NAME for part in path.parts):
        raise ConfigError(f"{name} {path} has a name of more than {LONGEST_NAME} bytes; give another path")
    if not os.path.isdir(folder):
        raise ConfigError(f"{name} {path} cannot be made, because {folder} is no folder; give another path")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"{name} {path} cannot be made, because {folder} may not be written to; give another path")
