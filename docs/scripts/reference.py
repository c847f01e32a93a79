"""Writes the reference pages from the code: every field of every config, and every command with its help.

MkDocs calls `on_files` when it builds the site (mkdocs.yml), so the pages cannot be out of step with the code; nothing
generated is kept in the repository. `python docs/scripts/reference.py commands` (or `configs`, `messages`) prints one
of them.
"""

import ast
import dataclasses
import functools
import inspect
import re
import sys
import typing
from pathlib import Path
from typing import Any

from tigerjax import errors
from tigerjax.command import options, table, usage
from tigerjax.config import RunConfig

PAGES = {
    "reference/commands.md": "commands",
    "reference/configs.md": "configs",
    "reference/messages.md": "messages",
}
PACKAGE = Path(errors.__file__).parent


def on_files(files: Any, config: Any) -> Any:
    """MkDocs' event: the generated pages join those that lie in docs/."""
    from mkdocs.structure.files import File

    for path, name in PAGES.items():
        files.append(File.generated(config, path, content=globals()[name]()))
    return files


def commands() -> str:
    """Exit codes, then a section per command: what `tigerjax COMMAND --help` prints."""
    lines = [
        "# Commands",
        "",
        "Made from the code by `docs/scripts/reference.py`. Every command that takes a CONFIG also takes every",
        "[field of a run](configs.md) as an option, such as `--global-batch-size 64`.",
        "",
        "## Exit codes",
        "",
        "| code | when |",
        "|---|---|",
        *(f"| {code} | {when} |" for code, when in exit_codes()),
        "",
    ]
    for words, command in table.COMMANDS.items():
        prog = f"tigerjax {' '.join(words)}"
        lines += [f"## {prog}", "", "```text", usage.usage(command, prog), "```", ""]
    train = table.COMMANDS[("train",)]
    lines += ["## On several hosts", "", "```text", usage.usage_of_hosts(train, "tigerjax train"), "```", ""]
    return "\n".join(lines)


def messages() -> str:
    """A section for each room: the messages of its errors, with … for each value."""
    lines = [
        "# Messages",
        "",
        "Every error that the code can raise on purpose, with its exit code; … stands for a value. Made from the code",
        "by `docs/scripts/reference.py`. [Errors, and what to change](../ERRORS.md) explains the common ones.",
        "",
    ]
    room = ""
    for where, code, message in sorted(raised()):
        if where.partition("/")[0] != room:
            room = where.partition("/")[0]
            lines += ["", f"## {room}", ""]
        lines.append(f"    {code}  {' '.join(message.split())}")
    return "\n".join(lines) + "\n"


@functools.cache
def raised() -> set[tuple[str, int, str]]:
    """(file, exit code, message with … for each value) of each place that raises one of our errors."""
    codes = {name: kind.exit_code for name, kind in vars(errors).items() if inspect.isclass(kind) and _is_ours(kind)}
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in codes and node.args:
                message = re.sub("…(?:…| …)+", "…", said(node.args[-1]))
                found.add((path.relative_to(PACKAGE).as_posix(), codes[node.func.id], message))
    return found


def _is_ours(kind: type) -> bool:
    return issubclass(kind, errors.TigerjaxError)


def said(node: ast.AST) -> str:
    """The text that an expression makes, with … for what is not written out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(said, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return said(node.left) + said(node.right)
    return "…"


def exit_codes() -> list[tuple[int, str]]:
    """(code, meaning) from the docstrings of the deliberate errors, and those that are not errors of ours."""
    found = {0: "done", 130: "interrupted by Ctrl-C (143: by SIGTERM); what was trained is saved"}
    for _, kind in inspect.getmembers(errors, inspect.isclass):
        if issubclass(kind, errors.TigerjaxError) and kind is not errors.TigerjaxError:
            found[kind.exit_code] = (
                (inspect.getdoc(kind) or "").splitlines()[0].partition(" (exit")[0].removesuffix(".")
            )
    return sorted(found.items())


def configs() -> str:
    """A section per dataclass: its docstring, and a row per field with option, type, default and meaning."""
    lines = [
        "# Configs",
        "",
        "Made from the code by `docs/scripts/reference.py`. A run is a Python file with `config() -> RunConfig`; the",
        "command line overrides any field by the name in the first column. Letters are the dimensions of arrays:",
        "B rows, T tokens of a row, L layers, D model, F mlp, N query heads, K key and value heads, H one head, V",
        "vocabulary.",
        "",
    ]
    for config, prefix, where in all_configs():
        title = f"{config.__name__} (`--{prefix}…`)" if prefix else config.__name__
        lines += [f"## {title}", "", inspect.getdoc(config) or "", "", f"{where}", ""]
        lines += ["| option | type | default | meaning |", "|---|---|---|---|"]
        hints, said = typing.get_type_hints(config), options.meanings(config)
        for field in dataclasses.fields(config):
            kind, name = hints[field.name], f"--{prefix}{field.name}".replace("_", "-")
            meaning = said.get(field.name, "")
            if dataclasses.is_dataclass(kind):
                lines.append(f"| `{name}.…` | {kind.__name__} | see there | {meaning} |")
                continue
            (option,) = [o for o in options.of_config(config, prefix=prefix) if o.name == name]
            default = "required" if option.default is options.REQUIRED else f"`{option.default!r}`"
            words = " or ".join(f"`{c}`" for c in option.choices) or option.kind or "switch"
            words += f", {option.range}" if option.range is not None else ""
            lines.append(f"| `{name}` | {words} | {default} | {meaning} |".replace("\n", " "))
        lines.append("")
    return "\n".join(lines)


def all_configs() -> list[tuple[Any, str, str]]:
    """(dataclass, prefix of its options, where it is used): those of a run, then those of single commands."""
    found = [(RunConfig, "", "What every config file returns.")]
    found += [(kind, f"{name}.", "Part of a run.") for name, kind in _nested(RunConfig, "")]
    for name, base in _nested(RunConfig, ""):
        leaves = [kind for kind in options.subclasses(base) if not options.subclasses(kind)]
        found += [(kind, f"{name}.", f"May stand for {base.__name__} in a run.") for kind in leaves]
    for command in table.COMMANDS.values():
        for p in inspect.signature(command).parameters.values():
            known = [options.ConfigFile, *(kind for kind, *_ in found)]
            if dataclasses.is_dataclass(p.annotation) and p.annotation not in known:
                users = [
                    f"`tigerjax {' '.join(w)}`"
                    for w, c in table.COMMANDS.items()
                    if p.annotation in [q.annotation for q in inspect.signature(c).parameters.values()]
                ]
                found.append((p.annotation, f"{p.name}.", f"Options of {', '.join(users)}."))
    return found


def _nested(config: type, prefix: str) -> list[tuple[str, Any]]:
    found = []
    for name, kind in typing.get_type_hints(config).items():
        if dataclasses.is_dataclass(kind):
            found += [(prefix + name, kind), *_nested(typing.cast(type, kind), f"{prefix}{name}.")]
    return found


if __name__ == "__main__":
    if sys.argv[1:] not in ([name] for name in PAGES.values()):
        sys.exit(f"usage: python {sys.argv[0]} {'|'.join(PAGES.values())}")
    print(globals()[sys.argv[1]]())
