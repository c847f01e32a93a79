"""One function over many items, here or on Apache Beam; the results do not depend on where or by how many.

A stage is a few such steps with small reductions between them. What is large moves through files in the stage's work
folder, written by rename under names that the item decides: a step that is repeated writes the same bytes. So Beam
carries tasks and small results, and every worker must see the work folder: it lies beside OUT, or in $TMPDIR where OUT
is in a bucket.

    local                                    this process, or --workers processes of this machine
    DirectRunner, DataflowRunner, FlinkRunner …   Apache Beam, with its own options after the name:
    "FlinkRunner --flink_master=host:8081"
"""

import functools
import importlib.util
import json
import multiprocessing
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tigerjax.errors import ConfigError, TigerjaxError, again
from tigerjax.files import manifest, paths
from tigerjax.files.progress import Progress

Item = TypeVar("Item")
MAX_WORKERS = 1024


class Runner:
    """Where steps run: `name` is "local" or a Beam runner with its options, `workers` counts local processes.

    A context: local processes start with the first step that has something for them, and end with the context.
    """

    def __init__(self, name: str = "local", workers: int = 1, progress: Progress | None = None):
        """`progress(step, "parts")` gives a function of (done, all); a Beam runner has its own."""
        self.name, self.workers, self._progress = name, workers, progress
        self._pool: Any = None
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
            self._pool.terminate()
            self._pool.join()
            self._pool = None

    def says(self, what: str, unit: str) -> Callable[[int, int], None] | None:
        """A function of (done, all) that tells of work outside of `each`; None where nobody listens."""
        return self._progress(what, unit) if self._progress is not None else None

    def each(self, function: Callable[[Item], Any], items: Sequence[Item], work: Path, step: str) -> list[Any]:
        """[function(item) for item in items]; results must be JSON-able. `function` is of a module, or a partial of
        one; its deliberate errors come back as they are, the first item's first."""
        if self.name != "local":
            return self._beam(function, items, work / "results" / step)
        say = self.says(step, "parts")
        if self.workers == 1 or len(items) < 2:
            return list(_told(map(function, items), say, len(items)))
        if self._pool is None:
            # spawn: a forked child would inherit the locks of JAX's and TensorFlow's threads
            self._pool = multiprocessing.get_context("spawn").Pool(self.workers)
        done = self._pool.imap(functools.partial(_tried, function), items)
        return [_given(said) for said in _told(done, say, len(items))]

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
                    | beam.Map(functools.partial(_kept, function, folder))
                )
        except ValueError as error:
            raise ConfigError(f"runner {self.name!r}: {' '.join(str(error).split())}") from error
        return [_given(json.loads((folder / f"{i}.json").read_text(encoding="utf-8"))) for i in range(len(items))]


def _told(done: Iterable[Any], say: Callable[[int, int], None] | None, total: int) -> Iterator[Any]:
    """The same results, each told of when it is there."""
    for number, result in enumerate(done, start=1):
        if say is not None:
            say(number, total)
        yield result


def _tried(function: Callable[[Any], Any], item: Any) -> dict[str, Any]:
    try:
        with paths.told():
            return {"result": function(item)}
    except TigerjaxError as error:
        return {"error": type(error).__name__, "message": str(error)}


def _given(said: dict[str, Any]) -> Any:
    if "error" not in said:
        return said["result"]
    raise again(said["error"], said["message"])


def _kept(function: Callable[[Any], Any], folder: Path, numbered: tuple[int, Any]) -> None:
    number, item = numbered
    manifest.write_json(folder / f"{number}.json", _tried(function, item))
