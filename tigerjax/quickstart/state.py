"""One quick start: its folder, its seed, its configs, and the report that its stages fill in."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import tigerjax
from tigerjax import config as config_lib
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.files import folders, manifest
from tigerjax.files.jsonl import read_jsonl

BESIDE = Path(tigerjax.__file__).resolve().parents[1]
# A clone has configs/ beside tigerjax/; a wheel has it in this room (setup.py).
IN_WHEEL = Path(__file__).with_name("configs")
CONFIGS = IN_WHEEL if IN_WHEEL.is_dir() else BESIDE / "configs"
HOME = "runs/quickstart"  # where the config files put their data; replaced by the --out of a run
EMBEDDED = BESIDE / "data_mixtures" / "embedded"
EXERCISES = BESIDE / "data_mixtures" / "exercises"
DEV, TEST = EXERCISES / "dev.jsonl", EXERCISES / "test.jsonl"
"""Held-out questions. DEV decides whether a round is accepted, and is for those who change the recipe. TEST is for the
report only."""
SECONDS = "seconds.json"  # of each stage; written first, so it also marks a folder as a quick start's

Adjust = Callable[[RunConfig], RunConfig]


class Quickstart(NamedTuple):
    """Where a quick start writes, and what it has measured so far."""

    out: Path
    seed: int
    adjust: Adjust
    console: Console
    report: dict[str, Any]

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Times a stage. A stage that is skipped keeps the time of the run that did its work."""
        file = self.out / SECONDS
        seconds = json.loads(file.read_text(encoding="utf-8"))
        self.console.print(f"[bold]{name}[/bold]")
        start = time.perf_counter()
        yield
        seconds[name] = max(seconds.get(name, 0.0), round(time.perf_counter() - start, 1))
        manifest.write_json(file, seconds)
        self.report["seconds"] = seconds

    def config(self, name: str) -> RunConfig:
        """configs/quickstart_NAME.py, as `run_config` gives it."""
        return run_config(name, self.out, seed=self.seed, adjust=self.adjust)

    def signature(self, name: str) -> list[str]:
        """The lines of a config's dump: they change whenever the config does."""
        return config_lib.dump(self.config(name))


def claim(out: Path) -> None:
    """Makes the folder of a quick start, or accepts that of an earlier one; ConfigError if it holds something else."""
    file = out / SECONDS
    folders.refuse(out, "quickstart", manifest.read(out) or ({"stage": "quickstart"} if file.is_file() else None))
    out.mkdir(parents=True, exist_ok=True)
    if not file.is_file():
        manifest.write_json(file, {})


def run_config(name: str, out: Path, *, seed: int, adjust: Adjust) -> RunConfig:
    """configs/quickstart_NAME.py with its folders under `out`, its seed, and whatever `adjust` changes.

    Raises ConfigError where the file is missing, as in a broken installation.
    """
    path = CONFIGS / f"quickstart_{name}.py"
    if not path.is_file():
        raise ConfigError(f"{path} is missing; install tigerjax again, from a wheel or from a clone with `make venv`")
    base = config_lib.load(path)

    def moved(folder: str) -> str:
        return str(out) + folder.removeprefix(HOME)

    init_from = base.checkpoint.init_from
    return adjust(
        dataclasses.replace(
            base,
            seed=seed,
            data=dataclasses.replace(
                base.data, tokenizer=moved(base.data.tokenizer), cache_dir=moved(base.data.cache_dir)
            ),
            checkpoint=dataclasses.replace(base.checkpoint, init_from=moved(init_from) if init_from else None),
        )
    )


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a JSONL file."""
    return [record for _, record in read_jsonl(path)]
