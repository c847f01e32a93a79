"""What a SeqIO task or a function of the user's own depends on: its code, the values in it, and the files it names.

The walk begins at the function, or at the source, the preprocessors and the features of the task. It follows functions
into what they hold (defaults, closures, the arguments of a `functools.partial`, globals that they use) and into the
modules that define them, with the modules that these import. Of the modules that are the user's own, the whole file
counts. Of installed libraries only names count, and so does the version of tigerjax in every manifest.

A text that is met and that names a file, or a pattern that matches files, stands for these files. A function may read
files whose names are met nowhere. Then it says so, `dataset_fn.inputs = ["a.txt"]`, or `[]` where it reads none.
"""

import functools
import glob
import hashlib
import os
import sys
import sysconfig
import time
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import tigerjax
from tigerjax.files import manifest, paths
from tigerjax.terminal import tell

INSTALLED = tuple(
    str(Path(sysconfig.get_paths()[name]).resolve()) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
OURS = str(Path(tigerjax.__file__).resolve().parent) + os.sep
SEQIO = "seqio"
LONGEST_PATH = 4096
KNOWN = (
    *(type(None), bool, int, float, str, bytes, os.PathLike, Mapping, list, tuple, set, frozenset, type),
    *(functools.partial, types.MethodType, types.FunctionType, types.ModuleType),
)


class Fingerprint(NamedTuple):
    """`sha256` changes with the code and its values; `files` are what it reads."""

    sha256: str
    files: list[Path]
    complete: bool
    """False where nothing says what the source reads, as may be with a function."""


def of_task(task: Any) -> Fingerprint:
    """The fingerprint of a SeqIO task."""
    walk = _Walk()
    source = walk.visit(task.source)
    if not hasattr(task.source, "_dataset_fn"):  # SeqIO's source that is a function has no files to list
        walk.note_shards(task.source)
    complete = walk.declared or bool(walk.files)
    rest = [walk.visit(task.preprocessors), walk.visit(task.output_features)]
    code = [source, *rest, dict(sorted(walk.modules.items()))]
    return Fingerprint(hashlib.sha256(manifest.canonical(code)).hexdigest(), sorted(walk.files), complete)


def of_function(function: Any) -> Fingerprint:
    """The fingerprint of a Python function, such as one that scores answers."""
    walk = _Walk()
    code = [walk.visit(function), dict(sorted(walk.modules.items()))]
    digest = hashlib.sha256(manifest.canonical(code)).hexdigest()
    return Fingerprint(digest, sorted(walk.files), walk.declared or bool(walk.files))


def inputs_of(task: Any, config: dict[str, Any]) -> list[Path]:
    """The files that a task reads; what else its rows depend on is added to `config`.

    Where nothing says what it reads, the config is never equal to that of earlier rows.
    """
    made = of_task(task)
    config["fingerprint"] = made.sha256
    if not made.complete:
        config["made"] = time.time_ns()
        tell(
            f"source {task.name}: nothing says which files this SeqIO task reads, so its rows are made again; set"
            " `inputs = [FILE, …]` on its function (tigerjax/records/fingerprint.py)"
        )
    return made.files


class _Walk:
    """Turns what it meets into values that JSON can hold, and gathers modules and files on the way."""

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}  # sha256 of the file of each module of the user's
        self.files: set[Path] = set()
        self.declared = False
        self._under_way: set[int] = set()

    def visit(self, value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, str | os.PathLike):
            self._note(os.fspath(value))
            return str(value)
        if isinstance(value, bytes):
            return value.hex()
        if id(value) in self._under_way:
            return "again"
        self._under_way.add(id(value))
        try:
            return self._inside(value)
        finally:
            self._under_way.discard(id(value))

    def _inside(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return [[str(key), self.visit(item)] for key, item in value.items()]
        if isinstance(value, list | tuple):
            return [self.visit(item) for item in value]
        if isinstance(value, set | frozenset):
            return sorted(map(str, map(self.visit, value)))
        if isinstance(value, functools.partial):
            return [self.visit(value.func), self.visit(value.args), self.visit(value.keywords)]
        if isinstance(value, types.MethodType):
            return [self.visit(value.__func__), self.visit(value.__self__)]
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type | types.ModuleType):
            return self._named(value)
        if hasattr(value, "tobytes"):  # an array
            return hashlib.sha256(value.tobytes()).hexdigest()
        return self._object(value)

    def _named(self, value: Any) -> str:
        """A class or a module by its name; of the user's own, the file that defines it counts."""
        name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
        self._module(name)
        return f"{name}.{getattr(value, '__qualname__', '')}"

    def _object(self, value: Any) -> Any:
        kind = self._named(type(value))
        if _is_foreign(value):
            return kind
        # SeqIO's objects fill some fields, None before, with foreign objects when they are first used.
        held = getattr(value, "__dict__", {}).items()
        return [kind, {name: self.visit(item) for name, item in held if item is not None and not _is_foreign(item)}]

    def _function(self, function: types.FunctionType) -> Any:
        module, code = sys.modules.get(function.__module__), function.__code__
        held = [cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)]
        values = [self.visit(function.__defaults__), self.visit(function.__kwdefaults__), self.visit(held)]
        name = f"{function.__module__}.{function.__qualname__}"
        if (inputs := getattr(function, "inputs", None)) is not None:
            self.declared = True
            values.append(self.visit(list(inputs)))
        if not _is_users(module):
            return [name, values]
        self._module(function.__module__)
        used, there = {name for part in _codes(code) for name in part.co_names}, function.__globals__
        values.append({name: self.visit(there[name]) for name in sorted(used & there.keys())})
        # Of a module without a file, such as one that was typed in, the compiled code counts.
        own = "" if function.__module__ in self.modules else "".join(part.co_code.hex() for part in _codes(code))
        constants = [[c for c in part.co_consts if isinstance(c, str | int | float | bytes)] for part in _codes(code)]
        return [name, values, own, self.visit(constants)]

    def _module(self, name: str) -> None:
        """Adds the file of a module of the user's, and those of such modules that it uses."""
        module = sys.modules.get(name)
        if name in self.modules or module is None or not _is_users(module):
            return
        file = getattr(module, "__file__", None)
        if file is None or not Path(file).is_file():
            return
        self.modules[name] = manifest.sha256(file)
        for value in list(vars(module).values()):
            # A module that is loaded late may have no name yet.
            other = getattr(value, "__name__" if isinstance(value, types.ModuleType) else "__module__", None)
            if isinstance(other, str):
                self._module(other)

    def _note(self, text: str) -> None:
        """Notes the files that a text names."""
        if len(text) > LONGEST_PATH or "\n" in text or "\0" in text or not (os.sep in text or Path(text).suffix):
            return
        if paths.on_bucket(text):
            self.files.update(paths.matching(text))
        elif glob.has_magic(text):
            self.files.update(path for path in paths.matching(text) if path.is_file())
        elif Path(text).is_file() or (Path(text).is_absolute() and Path(text).is_dir()):
            self.files.add(Path(text))

    def note_shards(self, source: Any) -> None:
        """Notes the files that a source of files names itself."""
        for split in source.splits:
            for shard in source.list_shards(split):
                self._note(os.path.abspath(shard) if os.path.isfile(shard) else str(shard))


def _is_foreign(value: Any) -> bool:
    """Whether a value is an object of a library that is not SeqIO, such as a graph, which cannot be compared."""
    kind = type(value)
    known = isinstance(value, KNOWN) or hasattr(value, "tobytes") or kind.__module__.partition(".")[0] == SEQIO
    return not known and not _is_users(sys.modules.get(kind.__module__))


def _is_full(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _codes(code: types.CodeType) -> Iterable[types.CodeType]:
    """The code of a function, and of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _is_users(module: types.ModuleType | None) -> bool:
    """Whether a module is neither installed nor built in nor a part of tigerjax."""
    if module is None or module.__name__ in sys.builtin_module_names:
        return False
    if module.__name__ == "__main__":
        return True
    file = getattr(module, "__file__", None)
    if file is None:  # a namespace package, or a module that was made by code
        return not hasattr(module, "__path__") and getattr(module, "__spec__", None) is None
    return not str(Path(file).resolve()).startswith((*INSTALLED, OURS))
