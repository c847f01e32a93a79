"""The `tigerjax` program: it finds the command, calls it, and turns its errors into one line and an exit code.

Exit codes: 0 done, 1 a host was lost, 2 bad config (before any work), 3 bad data, 4 waits for people, 5 a gate failed,
130 interrupted (a run saves a checkpoint first).
"""

import difflib
import glob
import inspect
import itertools
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.command import next_step, project
from tigerjax.command.arguments import Call, bind
from tigerjax.command.names import COMMANDS_ELSEWHERE
from tigerjax.command.options import Command, takes_config
from tigerjax.command.table import COMMANDS, SECTIONS
from tigerjax.command.usage import DRY_RUN, HELP, HELP_HOSTS, rehearse, usage, usage_of_config, usage_of_hosts
from tigerjax.errors import ConfigError, TigerjaxError, near_miss
from tigerjax.files import system_errors
from tigerjax.terminal import in_short, show, tell

# What an accelerator looks like to the kernel: Google TPUs (two drivers), NVIDIA (also under WSL 2), AMD.
ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia*", "/dev/dxg", "/dev/kfd")
GOOGLE_PCI = "0x1ae0"  # a TPU that a container has not mapped yet
WORD = re.compile(r"[A-Za-z][\w-]*")  # of a command, and no path
ALIKE = 0.7  # of difflib's ratio: `trian` and `train` have 0.8
OVERVIEW_END = (
    "`tigerjax COMMAND --help` shows what a command takes, with an example; `--dry-run` what it would read and write.",
    "The same command continues what was interrupted.",
    *(__doc__ or "").split("\n\n")[1].splitlines(),
)
GROUP_END = ("`tigerjax COMMAND --help` shows arguments and an example.",)
AGAIN_SECONDS = 0.05  # until the callback in which a Ctrl-C was dropped is over
INTERRUPTED = "interrupted; run the same command again to continue"
CONVERSATIONS = {("chat",), ("serve",)}  # which the same command does not continue


def quiet_start(environ: MutableMapping[str, str] = os.environ, devices: str = "/") -> None:
    """Sets environment variables so that TensorFlow logs nothing, and JAX does not search for a TPU that is not there.

    Call it before either is imported. Where libtpu is installed on a machine without a TPU, JAX would search for
    seconds, and libtpu print a page about it. What the user has set stays.
    """
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "JAX_PLATFORMS" in environ or "JAX_FORCE_TPU_INIT" in environ or sys.platform != "linux":
        return
    present = any(glob.glob(devices.rstrip("/") + pattern) for pattern in ACCELERATORS)
    for path in glob.glob(devices.rstrip("/") + "/sys/bus/pci/devices/*/vendor"):
        with open(path, encoding="ascii") as file:
            present |= file.read().strip() == GOOGLE_PCI
    if not present:
        environ["JAX_PLATFORMS"] = "cpu"


def hush_threads() -> None:
    """Keeps threads of Orbax and TensorStore from printing tracebacks when a save fails, and Ctrl-C from being lost.

    The error of the save reaches `main`, which reports it. Orbax would log it a second time, and TensorStore print that
    the event loop of the failed save is closed. Python drops a KeyboardInterrupt that comes while it collects garbage,
    in a callback of JAX for example: it is raised again a moment later.
    """
    before, main_thread = sys.unraisablehook, threading.main_thread().ident

    def hook(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            # A signal, and not `_thread.interrupt_main`, which would not wake a program that waits.
            threading.Timer(AGAIN_SECONDS, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
        elif str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("absl").addFilter(lambda record: not record.exc_info)


def _list_commands(group: tuple[str, ...] = ()) -> str:
    """All commands by task, in the order of the work, or those of a group such as ("tokenizer",)."""
    what = (tigerjax.__doc__ or "").removeprefix("tigerjax: ")
    lines = [] if group else [f"tigerjax {tigerjax.__version__}: {what}", ""]
    lines += [f"usage: tigerjax {' '.join(group) or 'COMMAND'} …", ""]
    for title, commands in SECTIONS.items():
        shown = [
            f"  {' '.join(words):24} {(command.__doc__ or '').splitlines()[0]}"
            for words, command in commands.items()
            if words[: len(group)] == group
        ]
        lines += [*([] if group else [title]), *shown, *([] if group else [""])] if shown else []
    lines += ["", *GROUP_END] if group else OVERVIEW_END
    return "\n".join(lines)


def _run(args: list[str]) -> None:
    if args and args[0] == "help":  # `help train` is `train --help`
        args = [*args[1:], HELP[0]]
    if not args or args[0] in HELP:
        show(_list_commands())
    elif args[0] == "--version":
        show(f"tigerjax {tigerjax.__version__}")
    else:
        # `evaluate compare` before `evaluate`
        for words in sorted(COMMANDS, key=len, reverse=True):
            if tuple(args[: len(words)]) == words:
                _refuse_misspelt(words, args[len(words) :])
                return _run_in_project(words, COMMANDS[words], args[len(words) :])
        _refuse(args)


def _run_in_project(words: tuple[str, ...], command: Command, args: list[str]) -> None:
    """Runs a command with what the project file of this folder adds, and names the command that follows.

    That line goes to standard error, so that what the command printed can be piped; of several hosts one prints it.
    """
    prog = f"tigerjax {' '.join(words)}"
    if HELP_HOSTS in args:
        return show(usage_of_hosts(command, prog))
    if set(HELP) & set(args):
        return _help(command, prog, args)
    tables = project.read(COMMANDS)
    given = project.complete(tables, words, command, args)
    try:
        call = _run_command(command, prog, given)
    except TigerjaxError as error:
        more = project.explanation(str(error), tables, words, args)
        error.args = (f"{error}{more}",)
        raise
    except KeyboardInterrupt as interrupt:
        if words in CONVERSATIONS and not interrupt.args:
            interrupt.args = ("interrupted",)
        raise
    if call is None:
        return
    follows = project.following(tables, words, given) or next_step.after(words, call.names())
    hosts = sys.modules.get("tigerjax.processes.hosts")  # only a command that uses it can run on several hosts
    if follows is not None and (hosts is None or hosts.is_writer()):
        tell(f"next: {follows}")


def _help(command: Command, prog: str, args: list[str]) -> None:
    """Prints how a command is used, and the fields of its config where one is named."""
    show(usage(command, prog))
    if takes_config(command) and not args[0].startswith("-"):
        show("\n" + usage_of_config(Path(args[0])))


def _run_command(command: Command, prog: str, args: list[str]) -> Call | None:
    """Runs a command; None for one that was only rehearsed."""
    quiet_start()
    hush_threads()
    sys.path.append("")  # modules of mixtures are looked for in the current folder too, as `python -m` does
    has_its_own = "dry_run" in inspect.signature(command).parameters
    if DRY_RUN in args and not has_its_own:
        rehearse(bind(command, [word for word in args if word != DRY_RUN], prog))
        return None
    call = bind(command, args, prog)
    call()
    return None if DRY_RUN in args else call


def _refuse_misspelt(words: tuple[str, ...], rest: list[str]) -> None:
    """ConfigError where a command is followed by nearly the word of a longer one, as in `evaluate compair`."""
    longer = [command[len(words)] for command in COMMANDS if command[: len(words)] == words != command]
    if rest and "." not in rest[0] and (near := near_miss(rest[0], longer)) and not Path(rest[0]).exists():
        raise ConfigError(f"no command {' '.join([*words, rest[0]])!r}{near}")


def _refuse(args: list[str]) -> None:
    """ConfigError for words that are no command. Those that begin several are answered with the list of these."""
    words = tuple(itertools.takewhile(WORD.fullmatch, args)) or tuple(args[:1])
    if words in {command[:n] for command in COMMANDS for n in range(1, len(command))}:
        show(_list_commands(words))
        if set(args) & set(HELP):
            return
        raise ConfigError(f"`tigerjax {' '.join(words)}` needs one more word; the list is above")
    near = _near_commands(words)
    meant = " or ".join(f"`tigerjax {command}`" for command in near)
    hint = f"; did you mean {meant}?" if near else "; `tigerjax --help` lists the commands"
    parts = near[0].split() if near else words[:1]
    meant_parts = len(parts) if _like(words[0], parts[0]) >= ALIKE else 1  # 1 for `clean`, without its group
    raise ConfigError(f"no command {' '.join(words[:meant_parts])!r}{hint}")


def _near_commands(words: tuple[str, ...]) -> list[str]:
    """The commands, at most two, that begin like `words` but for a slip, or that other programs call so.

    A word may also stand for a command without its group: `clean` for `data clean`.
    """
    if words[0] in COMMANDS_ELSEWHERE:
        return [COMMANDS_ELSEWHERE[words[0]]]
    likeness: dict[str, tuple[float, float]] = {}
    for command in COMMANDS:
        whole = _like(" ".join(words[: len(command)]), " ".join(command))
        without_group = max((_like(words[0], word) for word in command[1:]), default=0.0)
        likeness[" ".join(command)] = max(whole, without_group), whole
    best = max(like for like, _ in likeness.values())
    near = [command for command, (like, _) in likeness.items() if like == best >= ALIKE]
    return ([command for command in near if likeness[command][1] == best] or near)[:2]  # `train`, not `reward train`


def _like(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def main(args: list[str] | None = None) -> int:
    """Runs the command line and returns its exit code. `args` are the words behind `tigerjax`."""
    try:
        _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except TigerjaxError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt as interrupt:
        return _fail(str(interrupt) or INTERRUPTED, 130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if _interrupted(error):
            return _fail(INTERRUPTED, 130)
        if (meant := system_errors.meaning(error)) is not None:
            return _fail(str(meant), meant.exit_code)
        raise
    return 0


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error is what a library made of Ctrl-C."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _fail(line: str, code: int) -> int:
    """Prints the line to standard error and returns the code. What it quotes may be long: it is cut."""
    tell(f"tigerjax: {in_short(line)}")
    return code


if __name__ == "__main__":
    sys.exit(main())
