"""Steps on Slurm: each is one array job, whose elements take the items in turn. Results come back through files."""

import functools
import hashlib
import json
import pickle
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError, WorkerLost
from tigerjax.files import manifest
from tigerjax.files.progress import Advance
from tigerjax.stages import remote
from tigerjax.stages.words import split_runner

PROGRAMS = ("sbatch", "squeue", "scancel")
MOST_ELEMENTS = 1000
"""The most elements of one array; Slurm's default limit is 1,001. Where there are more items, one element takes
several."""
TRIES = 3
"""Jobs that are sent for a step at most. An element whose node was lost leaves items undone, and the next job takes
them."""
LOOK_S, ASK_S, LATE_S = 2.0, 10.0, 30.0
"""Every LOOK_S the folder of results is read, and every ASK_S Slurm is asked whether the job still runs. Once it has
ended, results may still come for LATE_S, since NFS shows a new file only after a while."""
OURS = {"--array": "-a", "--chdir": "-D", "--error": "-e", "--output": "-o", "--parsable": "--parsable",
        "--wait": "-W", "--wrap": "--wrap"}  # fmt: skip
"""Options of sbatch that are set here, each with its short form."""
WORK, TODO = "work.pickle", "todo.json"
"""Files in the folder of a step: the function with its items, and which items each element of a job takes."""


class Slurm:
    """`name` is slurm, which options of sbatch may follow, such as "slurm --partition=cpu --mem=4G"."""

    def __init__(self, name: str, workers: int):
        self._name, (_, self._options) = name, split_runner(name)
        if workers != 1:
            raise ConfigError(
                f"workers={workers} counts processes of runner 'local', but the runner is {name!r}; Slurm starts as"
                " many elements of an array at one time as its limits allow: leave --workers out"
            )
        for option in self._options:
            if any(option.partition("=")[0] == long or option.startswith(short) for long, short in OURS.items()):
                raise ConfigError(f"runner {name!r}: {option} is set by tigerjax; leave it out")
        if absent := [program for program in PROGRAMS if shutil.which(program) is None]:
            raise ConfigError(
                f"runner {name!r} needs {' and '.join(absent)}; start the command on a machine that submits jobs"
            )

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], folder: Path, report: Advance | None
    ) -> list[Any]:
        def run(place: remote.Place) -> list[dict[str, Any]]:
            # Not JSON: a function comes with the objects that it holds. The file is ours, and its hash is compared.
            packed = pickle.dumps((functools.partial(remote.task, place, function), list(items)))
            (folder / WORK).write_bytes(packed)
            given = self._results(folder.absolute(), hashlib.sha256(packed).hexdigest(), len(items), report)
            for one in given:
                if "bug" in one:
                    raise RuntimeError(f"step {folder.name}: runner {self._name!r}: {one['bug']}")
            return given

        return remote.each(items, folder, run)

    def cores(self) -> int | None:
        """None: it is not known."""
        return None

    def close(self) -> None:
        """Every job has ended with its step."""

    def _results(self, folder: Path, sha256: str, total: int, report: Advance | None) -> list[dict[str, Any]]:
        left = list(range(total))
        for _ in range(TRIES):
            count = min(len(left), MOST_ELEMENTS)
            manifest.write_json(folder / TODO, [left[n::count] for n in range(count)])
            left = self._job(folder, sha256, left, lambda done: report(done, total) if report is not None else None)
            if not left:
                return [json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in range(total)]
        lines = [line for log in sorted(folder.glob("log-*")) for line in log.read_text(errors="replace").splitlines()]
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing was said")
        raise WorkerLost(
            f"step {folder.name}: runner {self._name!r}: {len(left)} of {total} tasks gave no result in {TRIES} jobs"
            f" (the last line: {last}); nothing was written: see to its nodes, or give more memory by --mem, and start"
            " again"
        )

    def _job(self, folder: Path, sha256: str, left: list[int], on_done: Callable[[int], None]) -> list[int]:
        """Runs one array job for the items `left`; returns those without a result."""
        job = self._submitted(folder, sha256, len(json.loads((folder / TODO).read_text(encoding="utf-8"))))
        try:
            asked, ended = time.monotonic(), 0.0
            while True:
                done = {name[:-5] for name in _names(folder) if name.endswith(".json")}
                on_done(len(done) - 1)
                left = [n for n in left if str(n) not in done]
                now = time.monotonic()
                if not left or (ended and now - ended > LATE_S):
                    return left
                if not ended and now - asked > ASK_S:
                    asked, ended = now, 0.0 if self._is_alive(job) else now
                time.sleep(LOOK_S)
        finally:
            if left:
                _run_program(["scancel", job])

    def _submitted(self, folder: Path, sha256: str, elements: int) -> str:
        """The id of a new job."""
        task = [sys.executable, "-m", "tigerjax.stages.slurm_task", str(folder), sha256]
        script = f"#!/bin/sh\nexec {shlex.join(task)}\n"
        ours = ["--parsable", f"--array=0-{elements - 1}", f"--output={folder}/log-%A-%a"]
        given = subprocess.run(
            ["sbatch", "--job-name=tigerjax", *self._options, *ours], input=script, capture_output=True, text=True
        )
        job = given.stdout.strip().partition(";")[0]
        if given.returncode or not job.isdecimal():
            why = " ".join((given.stderr or given.stdout).split())
            raise ConfigError(
                f"runner {self._name!r}: {why or 'sbatch said nothing'}; correct the options after slurm,"
                " or start on a machine from which sbatch reaches the cluster"
            )
        return job

    def _is_alive(self, job: str) -> bool:
        """Whether a job waits or runs; also True while Slurm does not answer."""
        code, out, errors = _run_program(["squeue", "--noheader", f"--jobs={job}", "--format=%i"])
        return bool(out.strip()) if code == 0 else not re.search(r"Invalid job id", errors)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def _run_program(words: Sequence[str]) -> tuple[int, str, str]:
    """(exit code, output, errors) of a program."""
    done = subprocess.run(words, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr
