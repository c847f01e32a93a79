"""The `tigerjax` command: its table of subcommands, its exit codes, its quiet start.

Exit codes: 0 done, 1 a host was lost, 2 bad config (before any work), 3 bad data, 4 waits for people, 5 a gate failed,
130 interrupted (what was trained is saved).
"""

import difflib
import errno
import glob
import inspect
import logging
import os
import sys
from collections.abc import MutableMapping
from typing import Any

import tigerjax
from tigerjax.command import align, checkpoints, completion, convert, evaluate, models, plan, text
from tigerjax.command.arguments import DRY_RUN, HELP, Command, bind, bind_with_config, rehearse
from tigerjax.errors import ConfigError, TigerjaxError, disk_full
from tigerjax.files import paths

COMMANDS: dict[tuple[str, ...], Command] = {
    ("quickstart",): models.quickstart,
    ("tokenizer", "sample"): text.tokenizer_sample,
    ("tokenizer", "train"): text.tokenizer_train,
    ("tokenizer", "extend"): text.tokenizer_extend,
    ("tokenizer", "verify"): text.tokenizer_verify,
    ("tokenizer", "stats"): text.tokenizer_stats,
    ("data", "clean"): text.data_clean,
    ("data", "dedup", "exact"): text.data_dedup_exact,
    ("data", "dedup", "near"): text.data_dedup_near,
    ("data", "dedup", "against-sft"): text.data_dedup_against_sft,
    ("data", "decontaminate"): text.data_decontaminate,
    ("data", "tfds"): text.data_tfds,
    ("data", "cache"): text.data_cache,
    ("data", "stats"): text.data_stats,
    ("data", "inspect"): text.data_inspect,
    ("train",): models.train,
    ("checkpoint", "ls"): checkpoints.ls,
    ("checkpoint", "verify"): checkpoints.verify,
    ("checkpoint", "rm"): checkpoints.rm,
    ("plan",): plan.plan,
    ("reward", "train"): models.reward_train,
    ("reward", "score"): models.reward_score,
    ("reward", "calibrate"): models.reward_calibrate,
    ("sample",): models.sample,
    ("evaluate", "compare"): evaluate.evaluate_compare,
    ("evaluate",): evaluate.evaluate,
    ("align", "init"): align.init,
    ("align", "prompts"): align.prompts,
    ("align", "sample"): align.sample,
    ("align", "score"): align.score,
    ("align", "queue"): align.queue,
    ("align", "import"): align.import_labels,
    ("align", "rank"): align.rank,
    ("align", "mix"): align.mix,
    ("align", "train"): align.train,
    ("align", "gate"): align.gate,
    ("align", "status"): align.status,
    ("align", "run"): align.run,
    ("convert", "from-hf"): convert.from_hf,
    ("convert", "to-hf"): convert.to_hf,
    ("convert", "resize"): convert.resize,
    ("report",): models.report,
    ("completion",): completion.completion,
}
WITH_CONFIG = {
    text.data_cache,
    models.train,
    plan.plan,
    models.reward_train,
    models.reward_score,
    models.reward_calibrate,
    models.sample,
    evaluate.evaluate,
    align.init,
}

# What an accelerator looks like to the kernel: Google TPUs (two drivers), NVIDIA (also under WSL 2), AMD.
ACCELERATORS = ("/dev/accel*", "/dev/vfio/[0-9]*", "/dev/nvidia*", "/dev/dxg", "/dev/kfd")
GOOGLE_PCI = "0x1ae0"  # a TPU that a container has not mapped yet
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG)


def quiet_start(environ: MutableMapping[str, str] = os.environ, devices: str = "/") -> None:
    """Before JAX and TensorFlow are imported: JAX is told of a machine without accelerators, TensorFlow keeps quiet.

    Where libtpu is installed and no TPU is, JAX would spend seconds on looking for one and libtpu print a page about
    it. Nothing that the user has set is changed.
    """
    environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if "JAX_PLATFORMS" in environ or "JAX_FORCE_TPU_INIT" in environ or sys.platform != "linux":
        return
    found = any(glob.glob(devices.rstrip("/") + pattern) for pattern in ACCELERATORS)
    for path in glob.glob(devices.rstrip("/") + "/sys/bus/pci/devices/*/vendor"):
        with open(path, encoding="ascii") as file:
            found |= file.read().strip() == GOOGLE_PCI
    if not found:
        environ["JAX_PLATFORMS"] = "cpu"


def hush_threads() -> None:
    """A save that fails is reported once, by us: not also by the threads of Orbax and TensorStore, with tracebacks.

    Orbax logs the error that it raises anyway; TensorStore prints that the event loop of a failed save is closed.
    """
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    logging.getLogger("absl").addFilter(lambda record: not record.exc_info)


def _usage(group: tuple[str, ...] = ()) -> str:
    """All commands, or those of a group such as ("tokenizer",)."""
    lines = [] if group else [f"tigerjax {tigerjax.__version__}: {tigerjax.__doc__}", ""]
    lines += [f"usage: tigerjax {' '.join(group) or 'COMMAND'} …", ""]
    for words, command in COMMANDS.items():
        if words[: len(group)] == group:
            lines.append(f"  {' '.join(words):22} {(command.__doc__ or '').splitlines()[0]}")
    lines += ["", "`tigerjax COMMAND --help` shows arguments and an example."]
    return "\n".join(lines if group else [*lines, (__doc__ or "").split("\n\n")[1]])


def _run(args: list[str]) -> None:
    if not args or args[0] in HELP:
        print(_usage())
        return
    if args[0] == "--version":
        print(f"tigerjax {tigerjax.__version__}")
        return
    for words, command in COMMANDS.items():
        if tuple(args[: len(words)]) == words:
            prog, rest = f"tigerjax {' '.join(words)}", args[len(words) :]
            quiet_start()
            hush_threads()
            sys.path.append("")  # modules of mixtures are looked for in the current folder too, as `python -m` does
            dry = DRY_RUN in rest and "dry_run" not in inspect.signature(command).parameters
            given = [word for word in rest if word != DRY_RUN] if dry else rest
            bound = (bind_with_config if command in WITH_CONFIG else bind)(command, given, prog)
            rehearse(bound, prog) if dry else bound()
            return
    said = tuple(word for word in args if not word.startswith("-"))
    groups = {words[:n] for words in COMMANDS for n in range(1, len(words))}
    if said in groups:
        print(_usage(said))
        if set(args) & set(HELP):
            return
        raise ConfigError(f"`tigerjax {' '.join(said)}` needs one more word; the list is above")
    near = difflib.get_close_matches(" ".join(said[:3]), [" ".join(w) for w in COMMANDS], n=1, cutoff=0.5)
    hint = f"; did you mean `tigerjax {near[0]}`?" if near else "; `tigerjax --help` lists the commands"
    raise ConfigError(f"no command {' '.join(said[:3]) or args[0]!r}{hint}")


def main(args: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    try:
        _run(sys.argv[1:] if args is None else args)
        sys.stdout.flush()
    except TigerjaxError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("interrupted; run the same command again to continue", 130)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if disk_full(error):
            where = getattr(error, "filename", None) or "the output"
            return _say(f"no space left on the disk for {where}; what was finished is whole: free some and repeat", 3)
        if isinstance(error, OSError) and error.errno in REFUSED:
            return _say(f"{error.filename}: {error.strerror}; change the path or its permissions", 3)
        if (trouble := paths.trouble(error)) is not None:
            return _say(str(trouble), trouble.exit_code)
        raise
    return 0


def _say(line: str, code: int) -> int:
    print(f"tigerjax: {line}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
