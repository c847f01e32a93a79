"""Runs one function over many items: in this process, in several, or on Apache Beam. The results are the same.

A stage is a few such steps, with small computations between them. Large data goes through files in the stage's work
folder. A file's name depends on the item alone and it is written by rename, so a step that Beam repeats writes the same
bytes again. Beam itself carries only tasks and small results. Every worker must see the work folder, which lies beside
OUT, or in $TMPDIR when OUT is in a bucket.

    local                                    this process, or --workers processes of this machine
    DirectRunner, DataflowRunner, FlinkRunner …   Apache Beam, with its own options after the name:
    "FlinkRunner --flink_master=host:8081"
"""

import functools
import importlib.util
import json
import multiprocessing
import os
import shlex
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

from tigerjax.errors import ConfigError, TigerjaxError, WorkerLost, again
from tigerjax.files import manifest, paths
from tigerjax.files.progress import Progress

Item = TypeVar("Item")
MAX_WORKERS = 1024


class Runner:
    """Runs the steps of a stage. `name` is "local" or a Beam runner with its options; `workers` counts local processes.

    Use it in a `with` block: processes start with the first step that needs them and end with the block.
    """

    def __init__(self, name: str = "local", workers: int = 1, progress: Progress | None = None, verify: bool = False):
        """`progress` shows how far each step is; a Beam runner shows its own progress. `verify` is `manifest.stage`'s,
        for the stage that gets the runner."""
        self.name, self.workers, self.verify, self._progress = name, workers, verify, progress
        self._pool: _Pool | None = None
        if not 1 <= workers <= MAX_WORKERS:
            raise ConfigError(f"workers={workers} must be in [1, {MAX_WORKERS}]")
        if name == "local":
            return
        if workers != 1:
            raise ConfigError(
                f"workers={workers} counts processes of runner 'local', but the runner is {name!r}; give the number of"
                " its workers among its own options, after its name"
            )
        if importlib.util.find_spec("apache_beam") is None:
            raise ConfigError(f"runner {name!r} needs Apache Beam: pip install 'tigerjax[beam]', or use --runner local")

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.end()
            self._pool = None

    def reporter(self, what: str, unit: str) -> Callable[[int, int], None] | None:
        """A function of (done, all) that shows the progress of work outside of `each`; None where none is shown."""
        return self._progress(what, unit) if self._progress is not None else None

    def each(self, function: Callable[[Item], Any], items: Sequence[Item], work: Path, step: str) -> list[Any]:
        """[function(item) for item in items]. `function` must be picklable and return what JSON can hold.

        An error that `function` raises for its user (TigerjaxError) is raised here again, the first item's first.
        """
        if self.name != "local":
            return self._beam(function, items, work / "results" / step)
        report = self.reporter(step, "parts")
        if self.workers == 1 or len(items) < 2:
            return list(_reported(map(function, items), report, len(items)))
        if self._pool is None:
            self._pool = _Pool(self.workers)
        try:
            done = self._pool.executor.map(functools.partial(_outcome, function), items)
            return [_result(outcome) for outcome in _reported(done, report, len(items))]
        except BrokenProcessPool as error:
            raise WorkerLost(
                f"step {step}: a worker process was killed, perhaps because the machine has too little memory; nothing"
                f" was written: give fewer than --workers {self.workers}, or free memory, and start again"
            ) from error

    def _beam(self, function: Callable[[Item], Any], items: Sequence[Item], folder: Path) -> list[Any]:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        folder.mkdir(parents=True, exist_ok=True)
        name, *options = shlex.split(self.name)
        try:
            with beam.Pipeline(name, options=PipelineOptions(options)) as pipeline:
                _ = (
                    pipeline
                    | beam.Create(list(enumerate(items)))
                    | beam.Reshuffle()
                    | beam.Map(functools.partial(_save_outcome, function, folder))
                )
        except ValueError as error:
            raise ConfigError(f"runner {self.name!r}: {' '.join(str(error).split())}") from error
        return [_result(json.loads((folder / f"{i}.json").read_text(encoding="utf-8"))) for i in range(len(items))]


class _Pool:
    """Worker processes. They end when `end` is called, and also when this process is killed.

    Each worker waits in a thread for the end of a pipe whose other end only this process holds.
    """

    def __init__(self, workers: int):
        # Not fork: a forked child would inherit the locks of JAX's and TensorFlow's threads.
        context = multiprocessing.get_context("spawn")
        watched, self._mine = context.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(workers, context, initializer=_end_with_parent, initargs=(watched,))

    def end(self) -> None:
        """Returns when no worker runs any more; what they were doing is given up."""
        self._mine.close()
        self.executor.shutdown(wait=True, cancel_futures=True)


def _end_with_parent(watched: Any) -> None:
    def wait() -> None:
        try:
            watched.recv_bytes()
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _reported(results: Iterable[Any], report: Callable[[int, int], None] | None, total: int) -> Iterator[Any]:
    """The same results; `report` is called after each."""
    for number, result in enumerate(results, start=1):
        if report is not None:
            report(number, total)
        yield result


def _outcome(function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    """The function's result, or its error for the user, in a form that another process can send."""
    try:
        with paths.bucket_errors():
            return {"result": function(item)}
    except TigerjaxError as error:
        return {"error": type(error).__name__, "message": str(error)}


def _result(outcome: dict[str, Any]) -> Any:
    if "error" not in outcome:
        return outcome["result"]
    raise again(outcome["error"], outcome["message"])


def _save_outcome(function: Callable[[Any], Any], folder: Path, numbered: tuple[int, Any]) -> None:
    number, item = numbered
    manifest.write_json(folder / f"{number}.json", _outcome(function, item))
