"""Runs one function over many items: in this process, in several, or on a cluster. The results are the same.

A stage is a few such steps, with small computations between them. Large data goes through files in the stage's work
folder. A file's name depends on the item alone and it is written by rename, so a step that is repeated writes the same
bytes again. A cluster itself carries only tasks and small results. Every worker must see the work folder, which lies
beside OUT, or in $TMPDIR when OUT is in a bucket.

    local                                    this process, or --workers processes of this machine
    spark://HOST:PORT, yarn, k8s://HOST:PORT   Apache Spark, with `--conf KEY=VALUE` after the name
    slurm                                    array jobs, with options of sbatch after the name: "slurm --mem=4G"
    DirectRunner, DataflowRunner, FlinkRunner …   Apache Beam, with its own options after the name:
    "FlinkRunner --flink_master=host:8081"

A new runner is a class that offers what `Steps` lists, and a line in RUNNERS.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tigerjax.errors import ConfigError
from tigerjax.files.progress import Advance, Progress
from tigerjax.stages.beam import Beam
from tigerjax.stages.local import Processes
from tigerjax.stages.slurm import Slurm
from tigerjax.stages.spark import Spark
from tigerjax.stages.words import split_runner

Item = TypeVar("Item")
MAX_WORKERS = 1024


class Steps(Protocol):
    """How the items of a step are worked through."""

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], folder: Path, report: Advance | None
    ) -> list[Any]:
        """The function's results in the order of the items.

        A TigerjaxError that the function raises is raised here again, the first item's first (`outcomes` carries it
        between processes). `folder` is a place for results that come back as files; it need not exist.
        `report(done, all)` shows the progress.
        """

    def cores(self) -> int | None:
        """How many items are worked on at one time; None where that is not known. Asked after a step."""

    def close(self) -> None:
        """Ends what the steps have started. Called at the end of the stage, also after an error."""


LOCAL = "local"
RUNNERS: dict[str, Callable[[str, int], Steps]] = {
    LOCAL: Processes,
    "slurm": Slurm,
    "spark": Spark,
    "yarn": Spark,
    "k8s": Spark,
}
"""What makes the Steps of a runner from its whole name and --workers. The key is the name up to a blank or `://`. Any
other name is one of Beam's runners."""


def _kind(name: str) -> str:
    """The key of a runner in RUNNERS, if it is there."""
    return split_runner(name)[0].partition("://")[0]


def is_beam(name: str) -> bool:
    """Whether a name is that of a runner of Beam."""
    return _kind(name) not in RUNNERS


class Runner:
    """Runs the steps of a stage. `name` begins as a key of RUNNERS, or is a Beam runner with its options.

    Use it in a `with` block: processes start with the first step that needs them and end with the block.
    """

    def __init__(self, name: str = LOCAL, workers: int = 1, progress: Progress | None = None, *, verify: bool = False):
        """`progress` shows how far each step is; a Beam runner shows its own progress. `verify` is `manifest.stage`'s,
        for the stage that gets the runner."""
        if not 1 <= workers <= MAX_WORKERS:
            raise ConfigError(f"workers={workers} must be in [1, {MAX_WORKERS}]")
        self.name, self.workers, self.verify, self._progress = name, workers, verify, progress
        self._steps = RUNNERS.get(_kind(name), Beam)(name, workers)

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self._steps.close()

    def cores(self) -> int | None:
        """How many items are worked on at one time; None where that is not known. Asked after a step."""
        return self._steps.cores()

    def reporter(self, what: str, unit: str) -> Callable[[int, int], None] | None:
        """A function of (done, all) that shows the progress of work outside of `each`; None where none is shown."""
        return self._progress(what, unit) if self._progress is not None else None

    def each(self, function: Callable[[Item], Any], items: Sequence[Item], work: Path, step: str) -> list[Any]:
        """[function(item) for item in items]. `function` must be picklable and return what JSON can hold.

        An error that `function` raises for its user (TigerjaxError) is raised here again, the first item's first.
        """
        return self._steps.each(function, items, work / "results" / step, self.reporter(step, "parts"))
