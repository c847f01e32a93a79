"""Makes the cached rows of sources, a folder each, by one process or by several at the same time.

Whoever finds a source that another process is making goes on with the next one, and comes back. So `tigerjax data
cache` may run on several machines at once, over one folder of a shared disk or bucket: they divide the sources. The
hosts of a training run divide them beforehand (`by_hosts`).
"""

import dataclasses
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.data import dropped, row_files
from tigerjax.data.tasks import RowMaker, is_own, row_maker, task_rows
from tigerjax.errors import DataError, FolderInUse
from tigerjax.files import manifest, paths
from tigerjax.files.progress import Progress
from tigerjax.processes import hosts
from tigerjax.records import fingerprint
from tigerjax.stages.runner import LOCAL, Runner, is_beam
from tigerjax.terminal import tell

LOOK_S = 2.0
"""When other processes make all sources that are left, this one looks again after so long."""
OWN_TASK = (
    "a SeqIO task of your own, whose rows are made in the order of its examples, so this process makes them and not the"
    " workers of --runner; of a large one give the texts, as files or by a file x.seqio (docs/DATA.md)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Caching:
    """What rows are made, and how."""

    tokenizer: str | Path
    """The folder of the tokenizer, which must encode as that of each source does."""
    cache_dir: str | Path
    """Gets a folder for each source."""
    seq_len: int
    max_dropped: float = 1.0
    """A source of which a larger share is in no row is a DataError, after its rows have been written."""
    runner: str = LOCAL
    """The name of a runner (`stages.runner`). The rows are the same."""
    verify: bool = False
    """Compare the bytes of rows that are there already."""
    progress: Progress | None = None

    def folder(self, task: Any) -> Path:
        """Of the rows of a task."""
        return paths.of(self.cache_dir) / str(task.name)


def cache(tasks: Iterable[Any], how: Caching) -> dict[str, Path]:
    """Writes the rows of SeqIO tasks, and returns the folders by task.

    What was dropped or changed is said on standard error. A task is skipped where neither its files nor its settings
    have changed, nor the code of a task of the user's own. The `figures` of a folder's manifest.json are those of
    `row_files.write`, and seq_len, tokenizer_sha256, records, characters, left_over (tokens that filled no row),
    overlong and weightless (examples that were dropped), and of a source with `passes` the rows of each.
    """
    Runner(how.runner)  # refused here where it cannot work
    waiting, in_use = deque(tasks), 0  # as many at the end of `waiting` are made by other processes
    folders = {task.name: how.folder(task) for task in waiting}
    told: set[str] = set()
    while waiting:
        task = waiting.popleft()
        try:
            figures = _make(task, how)
        except FolderInUse as error:
            if task.name not in told:
                told.add(task.name)
                tell(f"tigerjax: source {task.name} is being made: {str(error).partition(';')[0]}")
            waiting.append(task)
            in_use += 1
            if in_use >= len(waiting):
                in_use = 0
                time.sleep(LOOK_S)
            continue
        in_use = 0
        dropped.tell(task.name, figures, how.max_dropped)
    return folders


def by_hosts(tasks: Sequence[Any], how: Caching) -> None:
    """`cache` by all hosts of a run, of which each makes some of the sources.

    Where the hosts do not share the folder, each makes all of them for itself.
    """
    host, count = hosts.place()
    mine = list(tasks)[host::count]
    cache(mine, how)
    if count == 1:
        return
    made: dict[str, str] = {}
    for one in hosts.share("rows cached", {task.name: _rows_sha256(how.folder(task)) for task in mine}):
        made |= one
    others = [task for task in tasks if task not in mine]
    absent = [task for task in others if _rows_sha256(how.folder(task)) != made[task.name]]
    cache(absent, how)
    for task in others if hosts.is_writer() else ():
        if task not in absent:  # its counts stand in another host's log
            dropped.tell(task.name, (manifest.read(how.folder(task)) or {})["figures"], how.max_dropped)
    hosts.barrier("rows of all sources are there")


def _rows_sha256(folder: Path) -> str:
    return str((manifest.read(folder) or {}).get("figures", {}).get("rows_sha256", ""))


def _make(task: Any, how: Caching) -> dict[str, Any]:
    """The figures of a task's rows, which are made unless they are there. FolderInUse while another process does."""
    from tigerjax.tokenizer.load import Tokenizer

    maker, tokenizer = row_maker(task), Tokenizer(how.tokenizer)
    sha, encoding = tokenizer.sha256, tokenizer.encoding_sha256
    inputs: list[Path] = []
    if maker is not None:
        try:
            inputs = records.expand(maker.inputs())
        except DataError as error:
            raise DataError(f"source {task.name}: {error}") from error
        if (own := Tokenizer(maker.tokenizer).encoding_sha256) != encoding:
            raise DataError(
                f"source {task.name} is registered with tokenizer {maker.tokenizer} ({own[:12]}), but"
                f" {how.tokenizer} ({encoding[:12]}) is asked for; make data.tokenizer and the mixture agree"
            )
    config = {
        "task": task.name,
        "kind": maker.kind if maker else "custom",
        "format": row_files.MAGIC.decode(),
        "seq_len": how.seq_len,
        "tokenizer_sha256": sha,
    }
    config |= {"encoding_sha256": encoding} if encoding != sha else {}
    if maker is not None:
        config |= maker.settings() | records.inputs_config(maker.inputs())
    if is_own(task):
        inputs += fingerprint.inputs_of(task, config)
    progress = how.progress
    hashing = progress and progress(f"{task.name}: hashed", "GB")
    used = [*inputs, *(maker.split.files() if maker is not None else ())]
    with manifest.stage(
        how.folder(task), name="cache", config=config, inputs=used, hashing=hashing, verify=how.verify
    ) as run:
        if not run.done:
            if how.runner == LOCAL or maker is None or is_own(task):
                if how.runner != LOCAL:
                    tell(f"tigerjax: note: source {task.name}: {OWN_TASK}")
                rows = task_rows(task, how.seq_len)
            else:
                rows = _block_rows(task, maker, inputs, how, run.tmp / "work")
            shown = _counted(rows, progress(task.name, "rows")) if progress is not None else rows
            written = row_files.write(run.tmp, shown)
            counts = dict(maker.counts) if maker else {}
            passes = list(maker.pass_rows) if maker else []
            if not written["rows"] or not all(passes):
                raise dropped.empty(f"source {task.name}", counts, inputs, how.seq_len)
            run.figures = {
                **counts,
                **written,
                **({"passes": passes} if passes else {}),
                "left_over": counts.get("tokens", written["tokens"]) - written["tokens"],
                "seq_len": how.seq_len,
                "tokenizer_sha256": sha,
            }
    figures: dict[str, Any] = (run.manifest or {})["figures"]
    return figures


def _block_rows(task: Any, maker: RowMaker, inputs: Sequence[Path], how: Caching, work: Path) -> Iterator[np.ndarray]:
    from tigerjax.data import beam_cache, block_rows

    encode = beam_cache.encode if is_beam(how.runner) else block_rows.encode
    try:
        with Runner(how.runner, progress=how.progress) as runner:
            yield from block_rows.rows(maker, inputs, how.seq_len, runner, work, encode)
    except DataError as error:
        raise DataError(f"source {task.name}: {error}") from error
    shutil.rmtree(work)


def _counted(rows: Iterator[np.ndarray], report: Callable[[int, int], None]) -> Iterator[np.ndarray]:
    """The same rows. `report` is called with (rows so far, 0) after each, because their final number is not known."""
    for number, row in enumerate(rows, start=1):
        report(number, 0)
        yield row
