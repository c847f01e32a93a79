"""From the words of a command line to a call of a command, and from a config file and overrides to a RunConfig.

Words that do not fit end in a ConfigError of one line: what was given, what is needed, what to change. The parser is
our own because the libraries for it report a mistake by drawing a page and leaving the process.
"""

import dataclasses
import inspect
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tigerjax import config as config_lib
from tigerjax.command import names, options, outputs
from tigerjax.command.options import REQUIRED, Command, ConfigFile, Option
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, near_miss
from tigerjax.files import paths

NUMBERS = {int: "a whole number, such as 8", float: "a number, such as 3e-4"}


@dataclasses.dataclass(frozen=True)
class Call:
    """A command with its arguments, not yet called."""

    command: Command
    prog: str
    config: ConfigFile | None
    given: dict[str, Any]
    """The values from the command line, by the name of their option."""

    def __call__(self) -> None:
        """Runs the command. ConfigError where `check` refuses."""
        self.command(**self.check())

    def check(self) -> dict[str, Any]:
        """The arguments of the function. ConfigError where a dataclass of options refuses its values, or where an
        output cannot be written."""
        arguments = self.arguments()
        outputs.refuse(options.of_command(self.command), self.given)
        return arguments

    def names(self) -> dict[str, Any]:
        """What was given by name, without dashes, or else is the default; `run` is the folder of the run that CONFIG
        and --out name."""
        defaults = {o.name: o.default for o in options.of_command(self.command)}
        values = {n: v for n, v in defaults.items() if v is not REQUIRED and v is not None and v not in ([], ())}
        values = {name.removeprefix("--"): value for name, value in (values | self.given).items()}
        if self.config is not None:
            values["run"] = values.get("out") or self.config.run_dir(override(self.config))
        return values

    def arguments(self) -> dict[str, Any]:
        """The arguments of the function; those that were not given keep the function's defaults."""
        arguments: dict[str, Any] = {}
        by_place = {o.place: self.given[o.name] for o in options.of_command(self.command) if o.name in self.given}
        for name, parameter in inspect.signature(self.command).parameters.items():
            values = {place[1:]: value for place, value in by_place.items() if place[0] == name}
            if parameter.annotation is ConfigFile:
                arguments[name] = self.config
            elif options.changes(parameter.annotation) is not None:
                arguments[name] = {".".join(place): value for place, value in values.items()}
            elif () in values:
                arguments[name] = values[()]
            elif values and parameter.default is REQUIRED:
                arguments[name] = options.unannotated(parameter.annotation)(**{p[0]: v for p, v in values.items()})
            elif values:
                arguments[name] = _replaced(parameter.default, values)
        return arguments


def bind(command: Command, words: Sequence[str], prog: str) -> Call:
    """The call that these words ask for. Options that are not the command's own override fields of its CONFIG.

    ConfigError for words that do not fit.
    """
    own = options.of_command(command)
    if not options.takes_config(command):
        return Call(command, prog, None, _parse(words, own, prog))
    if not words or not words[0] or words[0].startswith("-"):
        raise ConfigError(f"give a config file or the folder of a run first, as in `{_example(command)}`")
    paths.need_disk("the config", words[0])
    # Every field has its value in the config file, which is not read yet: so none is required here.
    fields = [*options.of_config(RunConfig), *options.of_subclasses(RunConfig)]
    fields = [field._replace(default=None) for field in fields]
    names = {o.name for o in own}
    values = _parse(words[1:], [*own, *(f for f in fields if f.name not in names)], prog)
    config = ConfigFile(Path(words[0]), _overrides(words[1:], own), prog)
    return Call(command, prog, config, {name: value for name, value in values.items() if name in names})


def override(config: ConfigFile) -> RunConfig:
    """The RunConfig of a config file with the overrides applied. It is validated again."""
    run = config_lib.load(config.path)
    known = options.of_config(RunConfig, run)
    values = _parse(config.overrides, known, config.prog)
    return _replaced(run, {o.place: values[o.name] for o in known if o.name in values})


def _overrides(words: Sequence[str], own: Sequence[Option]) -> list[str]:
    """The words that are not those of the command's own options."""
    own_spellings = {spelling for option in own for spelling in option.spellings}
    overrides: list[str] = []
    is_override = False
    for word in words:
        if word.startswith("--"):
            # Compared whole: --model is a folder of some commands, --model.num-layers a field of every config.
            is_override = _spelling(word) not in own_spellings
        if is_override:
            overrides.append(word)
    return overrides


def _spelling(word: str) -> str:
    """--optim.peak_lr=3e-4 -> --optim.peak-lr"""
    return word.partition("=")[0].replace("_", "-")


def _parse(words: Sequence[str], known: Sequence[Option], prog: str) -> dict[str, Any]:
    """The values of the options that occur in `words`, by the name of the option. Of an option with one value the last
    counts; a list is given once, since its first values would be lost without a word."""
    by_spelling = {spelling: option for option in known for spelling in option.spellings if not option.positional}
    positional = [option for option in known if option.positional]
    values: dict[str, Any] = {}
    rest, option = list(words), None
    while rest:
        word = rest.pop(0)
        name, equals, text = word.partition("=")
        if not word.startswith("--"):
            if not positional:
                raise ConfigError(f"{_needless(word, option)}; {_help(prog)}")
            option, texts = positional.pop(0), [word]
        elif (named := by_spelling.get(_spelling(word))) is None:
            ours = names.ours(name, prog.removeprefix("tigerjax "), by_spelling)
            raise ConfigError(f"no option {name}{ours or _suggestion(name, list(by_spelling), prog)}")
        else:
            option, texts = named, [text] if equals else []
        if option.switch:
            if equals:
                raise ConfigError(f"{word}: a switch takes no value; write {' or '.join(option.spellings)}")
            values[option.name] = _spelling(word) == option.name
            continue
        while not equals and rest and not rest[0].startswith("--") and (option.many or not texts):
            texts.append(rest.pop(0))
        if option.many and option.name in values:
            raise ConfigError(f"{option.name} is given twice; write all its values behind one {option.name}")
        values[option.name] = _value(option, texts, prog)
    if missing := [o.shown for o in known if o.default is REQUIRED and o.name not in values]:
        raise ConfigError(f"Missing: {', '.join(missing)}; {_help(prog)}")
    return values


def _needless(word: str, before: Option | None) -> str:
    """The message about a word that no option takes; it names the option `before` it."""
    if before is None:
        return f"{word!r} belongs to no option"
    takes = f"none, write {' or '.join(before.spellings)}" if before.switch else "one"
    return f"{word!r} is one value too many: {before.shown.split()[0]} takes {takes}"


def _value(option: Option, texts: list[str], prog: str) -> Any:
    """The value of an option from the words behind it."""
    if option.optional and texts == ["None"]:
        return None
    # --eval.sets with nothing behind it is an empty list; where the option is required, that is a slip.
    if not texts and (not option.many or option.default is REQUIRED):
        raise ConfigError(f"{option.name} needs a value: {option.shown}; {_help(prog)}")
    items = [_item(option, text, prog) for text in texts]
    if not option.many:
        return items[0]
    made: Any = typing.get_origin(option.bare_type)(items)  # a list or a tuple
    return made


def _item(option: Option, text: str, prog: str) -> Any:
    if option.choices:
        if text not in option.choices:
            near = _suggestion(text, option.choices, prog)
            raise ConfigError(f"{option.name} {text} is none of {', '.join(option.choices)}{near}")
        return next(value for value in typing.get_args(option.item_type) if str(value) == text)
    if option.is_path and not text:  # "$OUT" of a shell where OUT is not set; Python takes it for the current folder
        raise ConfigError(f"{option.name} is empty; give a path")
    try:
        value = option.item_type(text)
    except ValueError as error:
        raise ConfigError(f"{option.name} {text}: {error}; give {NUMBERS[option.item_type]}") from error
    if option.range is not None and value not in option.range:
        raise ConfigError(f"{option.name} {text} must be {option.range}")
    if option.is_path:
        if option.stays_on_disk:
            paths.need_disk(option.name.removeprefix("--"), value)
        return paths.of(value)
    return value


def _replaced(instance: Any, values: dict[tuple[str, ...], Any]) -> Any:
    """A dataclass with the fields at these places replaced. Each dataclass on the way validates itself again."""
    fields: dict[str, Any] = {}
    for name in dict.fromkeys(place[0] for place in values):
        inner = {place[1:]: value for place, value in values.items() if place[0] == name}
        fields[name] = inner[()] if () in inner else _replaced(getattr(instance, name), inner)
    return dataclasses.replace(instance, **fields)


def _suggestion(word: str, there: Sequence[str], prog: str) -> str:
    """`; did you mean …?`, or where the help is."""
    last = word.removeprefix("--").rpartition(".")[2]  # --peak-lr is meant to be --optim.peak-lr
    same = [name for name in there if name.removeprefix("--").rpartition(".")[2] == last]
    hint = f"; did you mean {' or '.join(same)}?" if len(same) in (1, 2) else near_miss(word, there)
    return hint or f"; {_help(prog)}"


def _example(command: Command) -> str:
    """The example of a command's help."""
    return (inspect.getdoc(command) or "").partition("Example: ")[2].partition("\n")[0]


def _help(prog: str) -> str:
    return f"`{prog} --help` shows what there is"
