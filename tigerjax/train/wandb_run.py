"""Weights & Biases, where a run asks for it: its logged records in one W&B run, which a restart goes on with.

The package is imported only then. Who logs in, where to and whether at all is said by W&B's own means (`wandb login`,
WANDB_API_KEY, WANDB_ENTITY, WANDB_MODE=offline …), of which nothing is read or kept here.
"""

import importlib
import os
import secrets
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError

ID_FILE = "wandb_id.txt"
START_SECONDS, END_SECONDS = 60, 120
"""How long W&B may hold up a run at its start and at its end."""


def package() -> Any:
    """The module `wandb`; ConfigError where it is not installed."""
    try:
        return importlib.import_module("wandb")
    except ImportError as error:
        raise ConfigError(
            f"--wandb needs the package wandb ({error}): pip install wandb, or leave the option out"
        ) from error


class WandbRun:
    """The W&B run of a run folder, whose id is kept in RUN/wandb_id.txt; W&B's own files are in RUN/wandb.

    Nothing that W&B raises stops training: the first failure is one line on stderr, and nothing is sent from then on.
    A step that is done again after a restart or a rollback is logged again, at its own place on the axis `step`.
    """

    def __init__(self, run_dir: Path, *, project: str, name: str, config: Sequence[str]):
        self._run: Any = None
        module, kept = package(), run_dir / ID_FILE
        if not kept.is_file():
            kept.write_text(secrets.token_hex(8) + "\n", encoding="utf-8")
        try:
            self._run = module.init(
                project=project,
                id=kept.read_text(encoding="utf-8").strip(),
                resume="allow",
                name=name,
                dir=str(run_dir),
                config=dict(line.split(" = ", 1) for line in config),
                # Neither the terminal's text nor a copy of code leaves this machine; without a login W&B would ask.
                settings=module.Settings(
                    console="off", save_code=False, init_timeout=START_SECONDS, login_timeout=START_SECONDS
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
        """Waits until all is sent; where that takes too long, W&B's files stay for `wandb sync`."""
        if self._run is None:
            return
        failed: list[Exception] = []
        code = int(sys.exc_info()[0] is not None)  # a run that ends by an error is shown as failed

        def finish() -> None:
            try:
                self._run.finish(exit_code=code)
            except Exception as error:
                failed.append(error)

        sending = threading.Thread(target=finish, daemon=True)
        sending.start()
        sending.join(END_SECONDS)
        if sending.is_alive():
            failed.append(TimeoutError(f"not all was sent within {END_SECONDS} s"))
        if failed:
            self._give_up(failed[0])

    def _give_up(self, error: Exception) -> None:
        self._run = None
        said = (str(error).strip() or "no reason given").splitlines()[0][:200]
        if key := os.environ.get("WANDB_API_KEY"):
            said = said.replace(key, "***")
        print(
            f"warning: Weights & Biases: {type(error).__name__}: {said}; the run goes on without it",
            file=sys.stderr,
            flush=True,
        )
