"""The options of a command, read from its signature: for parsing, help, reference pages and shell completion.

A command is a function; each parameter is an option. Five annotations change that:

    run: Annotated[Path, "positional"]      a word without a name: tigerjax checkpoint ls RUN
    sampling: Annotated[Sampling, "flat"]   a dataclass whose fields are options of their own: --n, --top-p
    out: Annotated[Path, "disk"]            a path that may not lie in a bucket
    out: Annotated[Path, "file"]            an output that is a file; others are folders
    labels: Annotated[Path, "written"]      an output whose name says elsewhere what is read
    page: Annotated[Path, Endings(".html")] a file whose name must end so
    align: Annotated[dict, Changes(…)]      those fields of a dataclass that were given, by name

A dataclass without "flat" becomes options with its name in front, such as --hosts.find.
"""

import ast
import contextlib
import dataclasses
import functools
import gc
import inspect
import io
import sys
import tokenize
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from tigerjax.config import RunConfig
from tigerjax.config.ranges import Range, range_of

Command = Callable[..., None]
REQUIRED = inspect.Parameter.empty
POSITIONAL, FLAT, DISK, FILE, WRITTEN = "positional", "flat", "disk", "file", "written"
OnDisk = Annotated[Path, DISK]
"""A path that may not lie in a bucket. Every other path may."""


class Endings(tuple[str, ...]):
    """Marks an output whose name must end in one of these, in small or large letters: it has no other form."""

    __slots__ = ()

    def __new__(cls, *endings: str) -> "Endings":
        return super().__new__(cls, endings)


OutPage = Annotated[Path, FILE, WRITTEN, Endings(".html", ".htm")]
"""An output that is an HTML page."""
OutTable = Annotated[Path, FILE, Endings(".jsonl", ".csv")]
"""An output of rows, in the form that its name says."""
OutFolder = Annotated[Path, DISK, WRITTEN]
"""An output that is a folder on this machine's disk, under a name that is none of `outputs.OUTPUTS`."""
KINDS = {Path: "PATH", str: "TEXT", int: "INT", float: "FLOAT"}


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """What a command gets for CONFIG, a config file or a run's folder. `arguments.override` makes a RunConfig of it."""

    path: Path
    overrides: list[str]  # words such as --optim.peak-lr 3e-4
    prog: str  # the command as it was typed, for messages: tigerjax train

    def run_dir(self, run: RunConfig) -> Path:
        """The run's folder: CONFIG itself where it is one, else runs/NAME."""
        return self.path if self.path.is_dir() else Path("runs") / run.name


@dataclasses.dataclass(frozen=True)
class Changes:
    """Marks a parameter that takes the fields of a dataclass that were given, as a dict; none of them is required."""

    config: type
    prefix: str = ""


class Option(NamedTuple):
    """One option of a command, such as `--optim.peak-lr FLOAT`."""

    name: str
    """With its dashes. A positional option has none."""
    type: Any
    """The annotation, such as `list[Path]`."""
    default: Any
    """REQUIRED where there is none."""
    meaning: str = ""
    """The documentation of a dataclass field."""
    place: tuple[str, ...] = ()
    """The parameter, and below it the fields of dataclasses, that take the value: ("hosts", "find")."""

    @property
    def positional(self) -> bool:
        return not self.name.startswith("-")

    @property
    def bare_type(self) -> Any:
        """The type without annotations and without `| None`."""
        return _bare(self.type)

    @property
    def optional(self) -> bool:
        """Whether the word None is a value."""
        return type(None) in typing.get_args(unannotated(self.type))

    @property
    def many(self) -> bool:
        """Whether any number of words may follow."""
        return typing.get_origin(self.bare_type) in (list, tuple)

    @property
    def item_type(self) -> Any:
        """The type of one word."""
        return _bare(typing.get_args(self.bare_type)[0]) if self.many else self.bare_type

    @property
    def switch(self) -> bool:
        """A switch takes no value: --chat turns it on, --no-chat off."""
        return self.bare_type is bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed, where the type is a Literal."""
        return tuple(map(str, typing.get_args(self.item_type))) if typing.get_origin(self.item_type) is Literal else ()

    @property
    def kind(self) -> str:
        """The value as help shows it: PATH, INT …, {cut,drop}; empty for a switch."""
        if self.switch:
            return ""
        one = "{" + ",".join(self.choices) + "}" if self.choices else KINDS[self.item_type]
        return f"{one} …" if self.many else one

    @property
    def range(self) -> Range | None:
        """Between which numbers the value lies, where it is one."""
        return range_of(self.type)

    @property
    def is_path(self) -> bool:
        return self.item_type is Path

    @property
    def stays_on_disk(self) -> bool:
        return _has_mark(self.type, DISK)

    @property
    def is_file(self) -> bool:
        return _has_mark(self.type, FILE)

    @property
    def is_written(self) -> bool:
        return _has_mark(self.type, WRITTEN)

    @property
    def endings(self) -> tuple[str, ...]:
        """How the name of an output must end; empty where it may end in any way."""
        return next((mark for mark in _all_marks(self.type) if isinstance(mark, Endings)), ())

    @property
    def shown(self) -> str:
        """`--seed INT` or `FOLDER`, as help and messages write it."""
        return self.name.upper() if self.positional else f"{self.name} {self.kind}".rstrip()

    @property
    def spellings(self) -> tuple[str, ...]:
        """Its name; for a switch also the form that turns it off, such as --align.no-allow-partial."""
        stem, dot, last = self.name.removeprefix("--").rpartition(".")
        return (self.name, f"--{stem}{dot}no-{last}") if self.switch else (self.name,)


def takes_config(command: Command) -> bool:
    """Whether the first word of a command is a config file."""
    return any(p.annotation is ConfigFile for p in inspect.signature(command).parameters.values())


def of_command(command: Command) -> list[Option]:
    """The command's own options, without those that override fields of a config."""
    parameters = inspect.signature(command).parameters.values()
    return [o for p in parameters if p.annotation is not ConfigFile for o in _of_parameter(p)]


def of_config(config: type, default: Any = REQUIRED, prefix: str = "") -> list[Option]:
    """One option for each field of a dataclass, such as `--optim.peak-lr`, those of nested ones included.

    The defaults are the values of the instance `default`; without one they are those of the class.
    """
    return list(_of_fields(config, default, prefix, ()))


def of_subclasses(config: type) -> list[Option]:
    """One option for each field that a subclass of a nested dataclass has beyond it, such as `--objective.beta`.

    Which of them a config has is known when it is read."""
    found: dict[str, Option] = {}
    for field in dataclasses.fields(config):
        for kind in subclasses(field.type) if isinstance(field.type, type) else ():
            for option in _of_fields(kind, REQUIRED, f"{field.name}.", (field.name,)):
                found.setdefault(option.name, option._replace(default="as in the config"))
    known = {option.name for option in of_config(config)}
    return [option for name, option in found.items() if name not in known]


def subclasses(kind: type) -> list[type]:
    """All subclasses of a dataclass that tigerjax/config/ defines."""
    found: list[type] = []
    one: type
    for one in kind.__subclasses__():
        # `dataclass(slots=True)` makes a second class, and the first one is a subclass too as long as it lives.
        named = getattr(sys.modules[one.__module__], one.__name__, None)
        if one is named and one.__module__.startswith("tigerjax.config."):
            found += [one, *subclasses(one)]
    return found


@contextlib.contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection while the block runs.

    JAX runs Python code in each collection. CPython 3.11 fails with a SystemError when that happens inside `ast.parse`,
    which `inspect.getsource` calls, too.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@functools.cache
def meanings(config: type) -> dict[str, str]:
    """The documentation of a dataclass's fields by name: the string below a field, or the comment behind it."""
    inherited = [base for base in config.__bases__ if dataclasses.is_dataclass(base)]
    texts = {name: text for base in inherited for name, text in meanings(base).items()}
    with _without_collection():
        source = inspect.getsource(config)
        (tree,) = ast.parse(source).body
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    assert isinstance(tree, ast.ClassDef)
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = comments.get(node.lineno, "")
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = " ".join(str(below.value.value).split())
            if text:
                texts[node.target.id] = text
    return texts


def marks(annotation: Any) -> tuple[Any, ...]:
    """The words and other marks in an `Annotated[…]`."""
    return getattr(annotation, "__metadata__", ())


def changes(annotation: Any) -> Changes | None:
    """The mark of a parameter that takes only what was given; None for any other parameter."""
    return next((mark for mark in marks(annotation) if isinstance(mark, Changes)), None)


def _of_parameter(parameter: inspect.Parameter) -> Iterator[Option]:
    name, annotation = parameter.name, parameter.annotation
    kind = unannotated(annotation)
    if (some := changes(annotation)) is not None:
        fields = _of_fields(some.config, REQUIRED, some.prefix, (name,))
        yield from (field._replace(default="unchanged") for field in fields)
    elif dataclasses.is_dataclass(kind):
        prefix = "" if FLAT in marks(annotation) else f"{name}."
        yield from _of_fields(typing.cast(type, kind), parameter.default, prefix, (name,))
    else:
        shown = name if POSITIONAL in marks(annotation) else _spelt(name)
        yield Option(shown, annotation, parameter.default, place=(name,))


def _of_fields(config: type, default: Any, prefix: str, place: tuple[str, ...]) -> Iterator[Option]:
    types_by_name, texts = typing.get_type_hints(config, include_extras=True), meanings(config)
    for field in dataclasses.fields(config):
        value = _class_default(field) if default is REQUIRED else getattr(default, field.name)
        annotation, inside = types_by_name[field.name], (*place, field.name)
        if dataclasses.is_dataclass(annotation):
            kind = typing.cast(type, annotation)
            if type(value) in subclasses(kind):  # the settings of another objective
                kind = type(value)
            yield from _of_fields(kind, value, f"{prefix}{field.name}.", inside)
        else:
            yield Option(_spelt(f"{prefix}{field.name}"), annotation, value, texts.get(field.name, ""), inside)


def _class_default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return REQUIRED if field.default_factory is dataclasses.MISSING else field.default_factory()


def _spelt(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def unannotated(kind: Any) -> Any:
    """The type without what it is annotated with."""
    return kind.__origin__ if marks(kind) else kind


def _bare(kind: Any) -> Any:
    kind = unannotated(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        (kind,) = (unannotated(a) for a in typing.get_args(kind) if a is not type(None))
    return kind


def _has_mark(kind: Any, mark: str) -> bool:
    """Whether a type, or a part of it as in `OnDisk | None`, is annotated with a word."""
    return mark in _all_marks(kind)


def _all_marks(kind: Any) -> list[Any]:
    """What a type, or a part of it as in `OnDisk | None`, is annotated with."""
    return [*marks(kind), *(mark for part in typing.get_args(kind) for mark in _all_marks(part))]
