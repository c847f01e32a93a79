"""Weights & Biases: sends the logged records of a run to one W&B run, which a restart continues.

The package is imported only when a run asks for it. Login, server and offline mode are set by W&B's own means (`wandb
login`, WANDB_API_KEY, WANDB_ENTITY, WANDB_MODE=offline …); nothing of that is stored here.
"""

import contextlib
import importlib
import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.terminal import printable, tell

ID_FILE = "wandb_id.txt"
START_SECONDS, END_SECONDS = 60, 120
"""How long a run waits for W&B at its start and at its end when the server does not answer."""


def package() -> Any:
    """The module `wandb`. ConfigError when it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            f"--wandb needs the package wandb ({error}): pip install wandb, or leave the option out"
        ) from error


@contextlib.contextmanager
def _no_questions() -> Iterator[None]:
    """In this block stdin is an empty file. On a terminal W&B would ask for a login, and the run would wait for it."""
    before = sys.stdin
    with open(os.devnull, encoding="utf-8") as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = before


class WandbRun:
    """The W&B run that belongs to a run folder. Its id is stored in RUN/wandb_id.txt; W&B's own files are in RUN/wandb,
    or in a temporary folder on this host's disk when RUN is in a bucket.

    No error of W&B stops training: the first one is reported in one line on stderr, and nothing is sent after it. A
    step that is done again after a restart or a rollback is logged again, at the same place on the axis `step`.
    """

    def __init__(self, run_dir: Path, *, project: str, name: str, config: Sequence[str]):
        self._run: Any = None
        module, id_file = package(), run_dir / ID_FILE
        if not id_file.is_file():
            id_file.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
        try:
            with _no_questions():
                self._run = module.init(
                    project=project,
                    id=id_file.read_text(encoding="utf-8").strip(),
                    resume="allow",
                    name=printable(name),
                    dir=tempfile.mkdtemp(prefix="wandb-") if paths.on_bucket(run_dir) else str(run_dir),
                    config=dict(line.split(" = ", 1) for line in config),
                    settings=module.Settings(
                        quiet=True,
                        console="off",  # neither the terminal's text
                        save_code=False,  # nor a copy of code leaves this machine
                        init_timeout=START_SECONDS,
                        finish_timeout=END_SECONDS,
                        finish_timeout_raises=True,
                    ),
                )
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            self._give_up(error)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        """Sends the scalars of one step, in the background."""
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **scalars})
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        """Waits until everything is sent, at most END_SECONDS. The rest stays in RUN/wandb for `wandb sync`."""
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=int(sys.exc_info()[0] is not None))  # else a broken run is shown as finished
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
        if key := os.environ.get("WANDB_API_KEY"):
            reason = reason.replace(key, "***")
        tell(f"warning: Weights & Biases: {type(error).__name__}: {reason}; the run continues without it")
