"""The project file `tigerjax.toml`: what commands take in its folder when it is not typed.

    ["data clean"]               a command, and its options
    input = ["zh.jsonl", "en.jsonl"]
    out = "runs/clean"

    ["train pretrain.py"]        a command with its first words, which stand for nothing else
    "optim.peak-lr" = 1e-4

The tables stand in the order of the work, so that a command which has ended can name the next one. What is typed counts
more than what is in the file. A command without a table that works on the folder of the alignment takes that of
`align run`, and `report` takes what the last stage has made.
"""

import itertools
import re
import shlex
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax import config as config_lib
from tigerjax.command import names, options
from tigerjax.command.options import Command
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, near_miss
from tigerjax.terminal import tell

FILE = "tigerjax.toml"


class CommandDefaults(NamedTuple):
    """What one command takes."""

    command: tuple[str, ...]
    positional: tuple[str, ...]
    """The words behind the command that belong to no option, such as a config file."""
    given: Mapping[str, Any]
    """Values by the name of the option, without its dashes."""

    @property
    def name(self) -> str:
        return shlex.join([*self.command, *self.positional])


def read(commands: Collection[tuple[str, ...]], path: Path = Path(FILE)) -> list[CommandDefaults]:
    """The tables of a project file in their order; none where there is no file.

    ConfigError for a file that is wrong."""
    if not path.is_file():
        return []
    try:
        return parsed(path.read_text(encoding="utf-8"), commands, path)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; write it as UTF-8") from error


def parsed(text: str, commands: Collection[tuple[str, ...]], path: Path = Path(FILE)) -> list[CommandDefaults]:
    """The tables of a project file's text; `path` is where messages say that it stands.

    Raises ConfigError for a text that is no TOML, and for a table that is no command.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}; mend it, or work in another folder") from error
    out = []
    for name, given in tables.items():
        if not isinstance(given, dict):
            raise ConfigError(f'{path}: {name} stands in no table; write it below its command, such as ["data clean"]')
        try:
            words = tuple(shlex.split(name))
        except ValueError as error:
            raise ConfigError(f"{path}: [{name!r}]: {error}; close the quotes") from error
        command = max((known for known in commands if words[: len(known)] == known), key=len, default=None)
        if command is None:
            raise ConfigError(f"{path}: [{name!r}] is no command{near_miss(name, map(' '.join, commands))}")
        out.append(CommandDefaults(command, words[len(command) :], given))
    return out


def complete(
    tables: Sequence[CommandDefaults], command: Sequence[str], function: Command, typed: Sequence[str]
) -> list[str]:
    """The words behind a command, with what the project file has for it. Says on stderr what that is.

    ConfigError where several tables are meant, and for an option that the command does not have.
    """
    table, first = _meant(tables, tuple(command), typed), _positional(typed)
    if table is None:
        usual = [] if first else usual_folder(tables, function)
        if usual:
            tell(f"{FILE}: {shlex.join(usual)}")
        return [*usual, *typed]
    known = {o.name: o for o in options.of_command(function) if not o.positional}
    if options.takes_config(function):
        known = {o.name: o for o in options.of_config(RunConfig)} | known
    spelt = {word.partition("=")[0].replace("_", "-") for word in typed if word.startswith("--")}
    added: list[str] = []
    for key, value in table.given.items():
        name = f"--{key.replace('_', '-')}"
        if (option := known.get(name)) is None:
            near = names.ours(name, " ".join(command), known) or near_miss(name, known)
            raise ConfigError(f"{FILE}: [{table.name!r}] has {key!r}, which is no option{near}")
        if not spelt & set(option.spellings):
            added += _words(name, value, table)
    behind = list(table.positional[len(first) :]) if table.positional[: len(first)] == first else []
    if added or behind:
        tell(f"{FILE}: {shlex.join([*behind, *added])}")
    return [*first, *behind, *typed[len(first) :], *added]


def usual_folder(tables: Sequence[CommandDefaults], function: Command) -> list[str]:
    """The folder that a command without a table works on, as the one word that was not typed; [] where there is none.

    It is the alignment for what takes one. For `report` it is the alignment where a round has ended, else the folder of
    the last run that has logged a step.
    """
    takes = next((o.name for o in options.of_command(function) if o.positional), None)
    if takes == "dir":
        return [to for to in map(_alignment, tables) if to][-1:]
    if takes != "run_dir":
        return []
    runs = [run for run in map(_run, tables) if run and (Path(run) / "metrics.jsonl").is_file()]
    return [*runs, *(to for to in map(_alignment, tables) if to and _judged(to))][-1:]


def _alignment(table: CommandDefaults) -> str:
    """The folder of an alignment that a table makes or runs; "" for other tables."""
    word: dict[tuple[str, ...], Any] = {
        ("align", "init"): table.given.get("out"),
        ("align", "run"): "".join(table.positional[:1]),
    }
    return str(word.get(table.command) or "")


def _run(table: CommandDefaults) -> str:
    """The folder of the run that a table trains; "" for other tables, and where its config cannot be read."""
    if table.command not in (("train",), ("reward", "train")):
        return ""
    if "out" in table.given or not table.positional:
        return str(table.given.get("out", ""))
    path = Path(table.positional[0])
    try:
        return str(options.ConfigFile(path, [], "").run_dir(config_lib.load(path)))
    except ConfigError:
        return ""


def explanation(message: str, tables: Sequence[CommandDefaults], command: Sequence[str], typed: Sequence[str]) -> str:
    """What this file says about an error of a command: that it gave an option which the message names, and which
    earlier command writes a path that the message names and that is not there. "" where it says nothing."""
    table = _meant(tables, tuple(command), typed)
    if table is None:
        return ""
    spelt = {word.partition("=")[0].replace("_", "-") for word in typed}
    out = ""
    for key in table.given:
        name = f"--{key.replace('_', '-')}"
        if re.search(rf"{re.escape(name)}(?![\w.-])", message) and name not in spelt:
            out += f"; {FILE} has {name}, below [{table.name!r}]"
    for earlier in tables[: tables.index(table)]:
        made = [earlier.given.get("out"), *earlier.positional[1:]]
        for path in (path for path in made if isinstance(path, str)):
            if re.search(rf"(?<![\w./-]){re.escape(path)}(?![\w.-])", message) and not Path(path).exists():
                out += f"; `tigerjax {shortest(tables, earlier)}` writes it"
    return out


def following(tables: Sequence[CommandDefaults], command: Sequence[str], words: Sequence[str]) -> str | None:
    """The command that the project file has behind this one, which was called with `words`; None at its end.

    The steps of a round have no tables: behind them `align run` does what is left of the rounds, and behind `align set`
    it begins another one where none is under way.
    """
    table = _meant(tables, tuple(command), words)
    rounds = next((t for t in tables if t.command == ("align", "run") and [_alignment(t)] == list(words[:1])), None)
    if table is None and rounds is not None and command[0] == "align":
        planned, folder = rounds.given.get("rounds"), Path(_alignment(rounds))
        planned = planned if isinstance(planned, int) else 1
        begun, ended = len(list(folder.glob("rounds/[0-9][0-9]"))), len(_judged(folder))
        wanted = max(planned, begun, ended + 1 if command[-1] == "set" else 0)
        if ended < wanted:
            more = f" --rounds {wanted}" if wanted > planned else ""
            return f"tigerjax {shortest(tables, rounds)}{more}"
        table = rounds
    if table is None or table is tables[-1]:
        return None
    after = tables[tables.index(table) + 1]
    if table is rounds and after.command == ("convert", "to-hf"):
        return f"tigerjax {_export(tables, after, _alignment(table))}"
    return f"tigerjax {shortest(tables, after)}"


def _judged(alignment: str | Path) -> list[Path]:
    """The gates of an alignment's rounds that have ended."""
    return list(Path(alignment).glob("rounds/*/gate/manifest.json"))


def _export(tables: Sequence[CommandDefaults], table: CommandDefaults, alignment: str) -> str:
    """What to type to export the model that the rounds have ended with, where the table exports another one."""
    from tigerjax.align import summary

    model = [outcome["checkpoint"] for outcome in summary.outcomes(alignment)][-1:]
    if not model or Path(model[0]).resolve() == Path(*table.positional[:1]).resolve():
        return shortest(tables, table)
    given = [word for key, value in table.given.items() for word in _words(f"--{key}", value, table)]
    return shlex.join([*table.command, *model, *table.positional[1:], *given])


def shortest(tables: Sequence[CommandDefaults], table: CommandDefaults) -> str:
    """What to type for a table: the command alone where no other table has it."""
    alone = sum(other.command == table.command for other in tables) == 1
    return " ".join(table.command) if alone else table.name


def _positional(typed: Sequence[str]) -> tuple[str, ...]:
    """The words before the first option."""
    return tuple(itertools.takewhile(lambda word: not word.startswith("--"), typed))


def _meant(tables: Sequence[CommandDefaults], command: tuple[str, ...], typed: Sequence[str]) -> CommandDefaults | None:
    """The table of a command whose positional words begin with those that were typed, or the only one where none was.

    A table without positional words holds for any that were typed.
    """
    first = _positional(typed)
    own = [table for table in tables if table.command == command]
    meant = [table for table in own if table.positional[: len(first)] == first]
    if len(meant) > 1:
        names = ", ".join(f"`tigerjax {table.name}`" for table in meant)
        raise ConfigError(f"{FILE} has {len(meant)} tables for `tigerjax {' '.join(command)}`; type one of {names}")
    return meant[0] if meant else next((table for table in own if not table.positional), None)


def _words(name: str, value: Any, table: CommandDefaults) -> list[str]:
    if isinstance(value, bool):
        return [name if value else f"--no-{name.removeprefix('--')}"]
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) and not isinstance(item, bool) for item in items):
        raise ConfigError(
            f"{FILE}: [{table.name!r}] {name.removeprefix('--')} must be text, a number, or a list of them"
        )
    return [name, *map(str, items)]
