"""How words of the command line become the arguments of a command's function. tyro is imported only when used."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from tigerjax.errors import ConfigError


def override(path: Path, overrides: list[str]) -> Any:
    """The config file with dotted overrides applied and validated again."""
    import tyro

    from tigerjax import config

    base = config.load(path)
    return tyro.cli(config.RunConfig, default=base, args=overrides, prog=f"tigerjax … {path}")


def call_with_config(function: Callable[..., None], prog: str, args: list[str]) -> None:
    """Commands whose first word is a config file: the function's own flags are taken, the rest are overrides."""
    flags = {
        f"--{name.replace('_', '-')}": (name, kind)
        for name, kind in function.__annotations__.items()
        if name not in ("config", "overrides", "return")
    }
    defaults = inspect.signature(function).parameters
    needed = {flag for flag, (name, _) in flags.items() if defaults[name].default is inspect.Parameter.empty}
    if not args or args[0].startswith("-"):
        shown = [flag if kind is bool else f"{flag} {_metavar(kind)}" for flag, (_, kind) in flags.items()]
        shown = [word if word.split()[0] in needed else f"[{word}]" for word in shown]
        print(f"usage: {prog} CONFIG {' '.join(shown)} [--dotted.override VALUE …]\n")
        print(inspect.cleandoc(function.__doc__ or ""))
        if "Example:" not in (function.__doc__ or ""):
            print(f"\nExample: {prog} configs/llama2_tiny.py --optim.peak-lr 3e-4")
        print(f"{prog} CONFIG --help lists every field of the config.")
        if args[:1] in (["--help"], ["-h"]):
            return
        raise ConfigError(f"{prog} needs a config file first, such as configs/llama2_tiny.py")
    own: dict[str, Any] = {}
    rest: list[str] = []
    words = iter(args[1:])
    for word in words:
        flag, _, given = word.partition("=")
        if flag not in flags:
            rest.append(word)
            continue
        name, kind = flags[flag]
        if kind is bool:
            own[name] = True
            continue
        value = given or next(words, "")
        try:
            own[name] = _type(kind)(value)
        except ValueError as error:
            raise ConfigError(f"{prog} {flag} {value!r}: give {_metavar(kind)}") from error
    if {"-h", "--help"} & set(rest):
        override(Path(args[0]), ["--help"])
    if missing := sorted(flag for flag in needed if flags[flag][0] not in own):
        raise ConfigError(f"{prog} needs {', '.join(missing)}; `{prog} --help` shows an example")
    function(Path(args[0]), rest, **own)


def _type(kind: Any) -> Callable[[str], Any]:
    """The constructor of a flag's type: Path | None is Path."""
    return next((k for k in getattr(kind, "__args__", (kind,)) if k is not type(None)), str)


def _metavar(kind: Any) -> str:
    names: dict[Any, str] = {Path: "PATH", int: "N", float: "X"}
    return names.get(_type(kind), "TEXT")


def mark_positional(function: Callable[..., None]) -> Callable[..., None]:
    """Turns this file's Annotated[…, "positional"] into tyro's marker, so that tyro is imported only when used."""
    import tyro

    for name, kind in function.__annotations__.items():
        if getattr(kind, "__metadata__", None) == ("positional",):
            function.__annotations__[name] = Annotated[kind.__origin__, tyro.conf.Positional]
    return function
