"""From the words of a command line to a bound call: types by tyro, overrides of a config file, errors of one line."""

import contextlib
import functools
import inspect
import io
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Annotated, Any

from tigerjax import config as config_lib
from tigerjax.command import options
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths

Command = Callable[..., None]
HELP = ("-h", "--help")
WIDE = "10000"  # columns: tyro wraps its messages to the terminal, and a wrapped one does not join into one line
REFUSED = "Error parsing "  # tyro's words before those of an exception
LINE = 120  # columns of help
DRY_RUN = "--dry-run"
OUTPUTS = ("out", "json", "work", "cache_dir")
"""Parameters of commands that name what is written; other paths are read."""
MOST_MEMBERS = 24  # of a figure that are printed; `--json` keeps all


def bind(command: Command, args: Sequence[str], prog: str) -> Callable[[], None]:
    """The command with the arguments that `args` give, not yet called. `Annotated[T, "positional"]` takes no name.

    Prints help and raises SystemExit(0) for --help; raises ConfigError for words that do not fit.
    """
    if set(HELP) & set(args):
        print(usage(command, prog, with_config=False))
        raise SystemExit(0)
    options.check(args, options.own(command, with_config=False), prog)
    return _bind(command, list(inspect.signature(command).parameters.values()), args, prog)


def bind_with_config(command: Command, args: Sequence[str], prog: str) -> Callable[[], None]:
    """As `bind` for a command(config: Path, overrides, …): the first word is a config file, flags that are not the
    command's own override its fields."""
    if not args or args[0].startswith("-"):
        print(usage(command, prog, with_config=True))
        if args and args[0] in HELP:
            raise SystemExit(0)
        raise ConfigError(f"{prog} needs a config file first, such as configs/llama2_tiny.py")
    paths.need_disk("the config", args[0])
    path, own = Path(args[0]), list(inspect.signature(command).parameters.values())[2:]
    mine_spelt = {s for option in options.own(command, with_config=True) for s in option.spellings}
    mine: list[str] = []
    overrides: list[str] = []
    target = overrides
    for word in args[1:]:
        if word.startswith("--"):
            # --model is a folder of some commands, --model.num-layers a field of every config
            target = mine if word.partition("=")[0].replace("_", "-") in mine_spelt else overrides
        target.append(word)
    if set(HELP) & set(args):
        print(usage(command, prog, with_config=True) + "\n")
        override(path, ["--help"], prog)
    if not set(HELP) & set(args):
        known = options.own(command, with_config=True) + options.of_config(RunConfig)
        options.check(args[1:], known, prog)
    return _bind(functools.partial(command, path, overrides), own, mine, prog)


def override(path: Path, overrides: Sequence[str], prog: str = "tigerjax COMMAND") -> RunConfig:
    """The config file with dotted overrides applied and validated again."""
    import tyro

    default = config_lib.load(path)
    with _one_line(overrides, prog):
        return tyro.cli(RunConfig, default=default, args=list(overrides), prog=f"{prog} {path}")


def _bind(command: Command, parameters: list[inspect.Parameter], args: Sequence[str], prog: str) -> Callable[[], None]:
    import tyro

    def marked(kind: Any) -> Any:  # this file's marker to tyro's, so that a command needs no tyro to be defined
        positional = options.POSITIONAL in options.marks(kind)
        return Annotated[kind.__origin__, tyro.conf.Positional] if positional else kind

    def bound(**given: Any) -> Callable[[], None]:
        return functools.partial(command, **given)

    kinds = {p.name: marked(p.annotation) for p in parameters}
    shown: Any = bound
    shown.__doc__ = getattr(command, "func", command).__doc__
    shown.__annotations__ = kinds | {"return": Callable[[], None]}
    shown.__signature__ = inspect.Signature(
        [p.replace(annotation=kinds[p.name], kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    )
    with _one_line(args, prog):
        called = tyro.cli(shown, args=list(args), prog=prog)
    placed = {p.name: _placed(p, called.keywords[p.name]) for p in parameters}
    return functools.partial(called.func, *called.args, **placed)


def _placed(parameter: inspect.Parameter, value: Any) -> Any:
    """A path in a bucket is made one, where the command takes it; ConfigError where it does not."""
    if _many(value):
        return type(value)(_placed(parameter, one) for one in value)
    if not isinstance(value, Path):
        return value
    if options.stays_on_disk(parameter.annotation):
        paths.need_disk(parameter.name.replace("_", "-"), value)
    return paths.of(value)


def usage(command: Command, prog: str, with_config: bool) -> str:
    """Summary, example and options with their defaults."""
    own = options.own(command, with_config=with_config)
    words = ["usage:", prog, *(["CONFIG"] if with_config else []), *(o.usage() for o in own if o.shown_in_usage)]
    words += ["[OPTIONS]", *(["[--dotted.override VALUE …]"] if with_config else [])]
    lines = [" ".join(words), "", inspect.getdoc(command) or "", ""]
    for option in own:
        default = "(required)" if option.default is options.REQUIRED else f"(default: {say(option.default)})"
        said = f"  {f'{option.name} {option.kind}'.strip():34} {default}"
        lines += textwrap.wrap(f"{said} {option.meaning}", LINE, subsequent_indent=" " * 37, break_long_words=False)
    if not any(option.name == DRY_RUN for option in own):
        lines.append(f"  {DRY_RUN:34} says what would be read and written, and stops")
    if with_config:
        lines += ["", f"{prog} CONFIG --help lists every field of the config."]
    return "\n".join(line.rstrip() for line in lines)


def rehearse(bound: Callable[[], None], prog: str) -> None:
    """What `--dry-run` says: the command, the config's name, what would be read and written. Does and writes nothing.

    ConfigError for a config that cannot work and for an output that the command would refuse to replace, DataError for
    an input that does not exist.
    """
    assert isinstance(bound, functools.partial)
    print(f"would run {prog}")
    if bound.args:  # of a command with a config
        path, overrides = bound.args
        config = override(path, overrides, prog)
        print(f"  config  {path}: run {config.name}{f' with {len(overrides)} words of overrides' if overrides else ''}")
    kinds = {p.name: p.annotation for p in inspect.signature(bound.func).parameters.values()}
    for name, value in bound.keywords.items():
        found: list[Any] = [p for p in (value if _many(value) else [value]) if isinstance(p, PurePath)]
        for path in found:
            print(_written(path) if name in OUTPUTS else _read(path))
        if not found and value not in (None, [], ()) and not options.describes_path(kinds[name]):
            print(f"  {f'--{name}'.replace('_', '-'):24} {say(value)}")


def _many(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _read(path: Path) -> str:
    if not (found := paths.matching(path)):
        raise DataError(f"{path}: input does not exist; nothing was done")
    size = sum(sum(paths.sizes(f).values()) if f.is_dir() else paths.size(f) for f in found)
    return f"  reads   {path} ({size / 1e6:,.1f} MB)"


def _written(path: Path) -> str:
    from tigerjax.files import manifest

    if path.is_dir() and any(path.iterdir()):
        stage = (manifest.read(path) or {}).get("stage")
        holds = f"holds a result of {stage}" if stage else "holds files: goes on there, or is refused"
        return f"  writes  {path} ({holds})"
    return f"  writes  {path} ({'replaced' if path.is_file() else 'new'})"


@contextlib.contextmanager
def _one_line(args: Sequence[str], prog: str) -> Iterator[None]:
    """A refusal of tyro becomes a ConfigError of one line; help is printed as it is."""
    if set(HELP) & set(args):
        yield
        return
    said, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDE
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as error:
        raise ConfigError(one_line(said.getvalue(), prog)) from error
    finally:
        os.environ.pop("COLUMNS")
        if columns is not None:
            os.environ["COLUMNS"] = columns


def one_line(box: str, prog: str) -> str:
    """The message in a box that tyro draws, with the near misses that it found.

    │ Unrecognized options: --a.bc, 1 │ ───── │ Perhaps you meant: │ --a.bd INT │
        -> Unrecognized options: --a.bc, 1; did you mean --a.bd?
    """
    sections: list[list[str]] = [[]]
    lines = [line for line in box.splitlines() if line.strip()]
    for line in lines:
        inner = line.strip("│| ")
        if inner[:1] in ("╭", "╰"):
            continue
        if set(inner) <= set("─-"):
            sections.append([])
        else:
            sections[-1].append(inner)
    if lines and not lines[0].startswith("╭"):  # without box characters the title is a section of its own
        sections = sections[1:]
    if not sections or not sections[0]:
        return " ".join(box.split())
    near = [s[1].split()[0] for s in sections[1:] if len(s) > 1 and s[0].startswith(("Perhaps", "Arguments similar"))]
    message = " ".join(sections[0]).removesuffix(".")
    if message.startswith(REFUSED):  # by a config of ours, which says what to change
        message = message.removeprefix(REFUSED)
        return message if message.startswith("--") else message.partition(": ")[2]
    hint = f"did you mean {' or '.join(near)}?" if near else f"`{prog} --help` shows what there is"
    return f"{message}; {hint}"


def show(figures: dict[str, Any], json: Path | None) -> None:
    """Prints a line a figure (a line a member where the members have figures of their own), and keeps them as JSON."""
    for key, value in figures.items():
        members = isinstance(value, Mapping) and value and all(isinstance(v, Mapping) for v in value.values())
        for name, inner in value.items() if members else [("", value)]:
            print(f"{f'{key}.{name}'.rstrip('.'):24} {say(inner)}".rstrip())
    keep(figures, json)


def say(value: Any) -> str:
    """A figure for people: six digits, and no brackets."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else [("", v) for v in value]
        said = [f"{k} {say(v)}".strip() for k, v in pairs]
        more = f", … ({len(said)} in all)" if len(said) > MOST_MEMBERS else ""
        return ", ".join(said[:MOST_MEMBERS]) + more or "none"
    return str(value)


def keep(figures: dict[str, Any], json: Path | None) -> None:
    """Writes figures to the file that `--json` names; its folder is made."""
    from tigerjax.files.manifest import write_json

    if json is not None:
        json.parent.mkdir(parents=True, exist_ok=True)
        write_json(json, figures)
