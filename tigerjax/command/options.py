"""What a command can be told, from its signature: for its help, the reference pages and the shell's completion."""

import ast
import dataclasses
import inspect
import io
import tokenize
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from tigerjax.errors import ConfigError, near_miss

REQUIRED = inspect.Parameter.empty
POSITIONAL, DISK = "positional", "disk"  # what a parameter is annotated with
OnDisk = Annotated[Path, DISK]
"""A path that may not lie in a bucket, where any other may; `gs://` is refused."""
KINDS = {Path: "PATH", str: "TEXT", int: "INT", float: "FLOAT"}


class Option(NamedTuple):
    """One option: `--optim.peak-lr FLOAT`."""

    name: str
    """With its dashes; the bare name of a positional one."""
    kind: str
    """Of its value, such as PATH, INT … or {cut,drop,report}; empty for a switch, which has a `--no-` form."""
    default: Any
    """REQUIRED where there is none."""
    choices: tuple[str, ...]
    path: bool
    """Whether values are files or folders."""
    meaning: str = ""
    """Of a field of a config: what its class says of it."""

    @property
    def positional(self) -> bool:
        return not self.name.startswith("-")

    @property
    def shown_in_usage(self) -> bool:
        return self.positional or self.default is REQUIRED

    @property
    def spellings(self) -> tuple[str, ...]:
        """Of a switch also the form that turns it off: `--align.no-allow-partial`."""
        stem, dot, last = self.name.removeprefix("--").rpartition(".")
        return (self.name,) if self.kind else (self.name, f"--{stem}{dot}no-{last}")

    def usage(self) -> str:
        """`--size INT`, in brackets where it may be left out."""
        said = f"{self.name} {self.kind}".rstrip() if not self.positional else self.name.upper()
        return said if self.default is REQUIRED else f"[{said}]"


def own(command: Callable[..., None], *, with_config: bool) -> list[Option]:
    """The options of a command, without those that override its config's fields."""
    parameters = list(inspect.signature(command).parameters.values())[2 if with_config else 0 :]
    return [option for p in parameters for option in _options(p.name, p.annotation, p.default)]


def of_config(config: type, prefix: str = "") -> list[Option]:
    """`--a.b` for every field of a config dataclass; the default is that of the class."""
    hints, said = typing.get_type_hints(config), meanings(config)
    found: list[Option] = []
    for field in dataclasses.fields(config):
        default = field.default
        if default is dataclasses.MISSING:
            made = field.default_factory
            default = REQUIRED if made is dataclasses.MISSING else made()
        own = list(_options(f"{prefix}{field.name}", hints[field.name], default))
        found += [own[0]._replace(meaning=said.get(field.name, ""))] if len(own) == 1 else own
    return found


def meanings(config: type) -> dict[str, str]:
    """What a config class says of its fields: the string below one, or the comment behind it."""
    source = inspect.getsource(config)
    comments = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node, below in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = comments.get(node.lineno, "")
            if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                text = " ".join(str(below.value.value).split())
            if text:
                found[node.target.id] = text
    return found


def check(words: Sequence[str], known: Sequence[Option], prog: str) -> None:
    """ConfigError that names the near miss of an option that does not exist, or of a value that is not a choice."""
    by_spelling = {spelling: option for option in known for spelling in option.spellings if not option.positional}
    option: Option | None = None
    for word in words:
        name, equals, value = word.partition("=")
        if word.startswith("--"):
            option = by_spelling.get(name.replace("_", "-"))
            if option is None:
                raise ConfigError(f"no option {name}{_near(name, list(by_spelling), prog)}")
            if not equals:
                continue
        else:
            value = word
        if option is not None and option.choices and value not in (*option.choices, "None"):
            raise ConfigError(
                f"{option.name} {value} is none of {', '.join(option.choices)}{_near(value, option.choices, prog)}"
            )
        if option is not None and "…" not in option.kind:
            option = None  # it has its value


def _near(word: str, there: Sequence[str], prog: str) -> str:
    last = word.removeprefix("--").rpartition(".")[2]  # --peak-lr is meant to be --optim.peak-lr
    same = [name for name in there if name.removeprefix("--").rpartition(".")[2] == last]
    hint = f"; did you mean {' or '.join(same)}?" if len(same) in (1, 2) else near_miss(word, there)
    return hint or f"; `{prog} --help` shows what there is"


def _options(name: str, kind: Any, default: Any) -> Iterator[Option]:
    positional = POSITIONAL in marks(kind)
    kind = kind.__origin__ if marks(kind) else kind
    if dataclasses.is_dataclass(kind):
        for option in of_config(typing.cast(type, kind), f"{name}."):
            inner: Any = default
            for part in option.name.removeprefix("--").split(".")[name.count(".") + 1 :]:
                inner = REQUIRED if inner is REQUIRED else getattr(inner, part.replace("-", "_"))
            yield option if inner is REQUIRED else option._replace(default=inner)
        return
    said, choices, path = describe(kind)
    shown = name if positional else f"--{name.replace('_', '-')}"
    yield Option(shown, said, default, choices, path)


def marks(kind: Any) -> tuple[str, ...]:
    """What a type is annotated with."""
    return getattr(kind, "__metadata__", ())


def stays_on_disk(kind: Any) -> bool:
    """Whether a type is `OnDisk`, or holds some."""
    return DISK in marks(kind) or any(map(stays_on_disk, typing.get_args(kind)))


def describes_path(kind: Any) -> bool:
    """Whether values of a parameter's type are paths."""
    kind = kind.__origin__ if marks(kind) else kind
    return not dataclasses.is_dataclass(kind) and describe(kind)[2]


def describe(kind: Any) -> tuple[str, tuple[str, ...], bool]:
    """(words, choices, whether it is a path) of a type: `list[Path]` is ("PATH …", (), True)."""
    if marks(kind):
        return describe(kind.__origin__)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):  # only with None
        return describe(next(a for a in args if a is not type(None)))
    if origin is Literal:
        choices = tuple(map(str, args))
        return "{" + ",".join(choices) + "}", choices, False
    if origin in (list, tuple):
        said, choices, path = describe(args[0])
        return f"{said} …", choices, path
    if kind is bool:
        return "", (), False
    return KINDS[kind], (), kind is Path
