"""What `--help` prints, and what `--dry-run` prints."""

import inspect
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from tigerjax import config as config_lib
from tigerjax.command import options
from tigerjax.command.arguments import Call, override
from tigerjax.command.figures import as_text
from tigerjax.command.meanings import default, meaning
from tigerjax.command.options import Command, Option
from tigerjax.command.outputs import is_output, paths_of
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.terminal import show

HELP = ("-h", "--help")
HELP_HOSTS = "--help-hosts"
HOSTS = "--hosts."
DRY_RUN = "--dry-run"
LINE = 120  # columns


def usage(command: Command, prog: str) -> str:
    """The help of a command: its docstring with an example, and its options, what each means and its default."""
    own = options.of_command(command)
    with_config = options.takes_config(command)
    needed = [_in_usage(o) for o in own if o.positional or o.default is options.REQUIRED]
    words = ["usage:", prog, *(["CONFIG"] if with_config else []), *needed, "[OPTIONS]"]
    words += ["[--dotted.override VALUE …]"] if with_config else []
    called = textwrap.fill(
        " ".join(words), LINE, subsequent_indent=" " * 7, break_long_words=False, break_on_hyphens=False
    )
    lines = [called, "", inspect.getdoc(command) or "", ""]
    if with_config:
        lines.append(f"  {'CONFIG':34} A config file, such as configs/llama2_tiny.py, or a run's folder (required)")
    lines += _table([o for o in own if not o.name.startswith(HOSTS)], prog)
    if not any(option.name == DRY_RUN for option in own):
        lines.append(f"  {DRY_RUN:34} Print what would be read and written, and stop")
    if any(option.name.startswith(HOSTS) for option in own):
        lines.append(f"  {HOSTS + '…':34} On several hosts: see `{prog} {HELP_HOSTS}`")
    if with_config:
        lines += ["", "Every field of the config is an option too, such as --global-batch-size:"]
        lines += [f"`{prog} CONFIG --help` lists them with the values of CONFIG."]
    return "\n".join(line.rstrip() for line in lines)


def usage_of_hosts(command: Command, prog: str) -> str:
    """The options of a command for a run on several hosts. ConfigError where it has none."""
    known = [o for o in options.of_command(command) if o.name.startswith(HOSTS)]
    if not known:
        raise ConfigError(f"{prog} runs on one host; `{prog} --help` shows what there is")
    head = f"{prog} on several hosts: run the same command on each, with paths that all of them see."
    return "\n".join([head, "", *_table(known, prog)])


def usage_of_config(path: Path) -> str:
    """The options that override the fields of a config file. The defaults are the file's values."""
    fields = options.of_config(RunConfig, config_lib.load(path))
    return "\n".join([f"Every field of {path} is an option:", "", *_table(fields, "")])


def rehearse(call: Call) -> None:
    """Prints what a call would read and write, without doing or writing anything: `--dry-run`.

    ConfigError for a config that cannot work, DataError for an input that does not exist.
    """
    call.check()
    show(f"would run {call.prog}")
    if call.config is not None:
        run, words = override(call.config), len(call.config.overrides)
        show(f"  config  {call.config.path}: run {run.name}{f' with {words} words of overrides' if words else ''}")
    for option in options.of_command(call.command):
        value = call.given.get(option.name, option.default)
        for path in paths_of(value):
            show(_written(path) if is_output(option) else _read(path))
        # Of dataclasses with a prefix, such as --hosts.find, only what was given.
        shown = "." not in option.name or option.name in call.given
        if shown and not option.is_path and value not in (None, [], ()):
            show(f"  {option.name:24} {as_text(value)}")


def _table(known: Sequence[Option], prog: str) -> Iterator[str]:
    """One line for each option, or more where its meaning is long."""
    words = prog.removeprefix("tigerjax ")
    for option in known:
        text = f"{meaning(words, option).removesuffix('.')} {default(words, option)}".rstrip()
        head = f"  {f'{option.name} {option.kind}'.strip():34}"
        if len(head) > 36:  # too long to stand beside its text
            yield broken(head)
            head = " " * 36
        line = f"{head} {text}"
        yield from textwrap.wrap(line, LINE, subsequent_indent=" " * 37, break_long_words=False, break_on_hyphens=False)


def broken(head: str) -> str:
    """An option with its choices, in several lines where they are too many for one."""
    if len(head) <= LINE:
        return head
    return textwrap.fill(head.replace(",", ", "), LINE, subsequent_indent=" " * 8)


def _in_usage(option: Option) -> str:
    """`--seed INT`, in brackets where it may be left out."""
    return option.shown if option.default is options.REQUIRED else f"[{option.shown}]"


def _read(path: Path) -> str:
    if not (inputs := paths.matching(path)):
        raise DataError(f"{path}: input does not exist; nothing was done")
    size = sum(sum(paths.sizes(f).values()) if f.is_dir() else paths.size(f) for f in inputs)
    return f"  reads   {path} ({size / 1e6:,.1f} MB)"


def _written(path: Path) -> str:
    if path.is_dir() and any(path.iterdir()):
        stage = (manifest.read(path) or {}).get("stage")
        holds = f"holds a result of {stage}" if stage else "holds files: resumes there, or is refused"
        return f"  writes  {path} ({holds})"
    return f"  writes  {path} ({'replaced' if path.is_file() else 'new'})"
