"""The outputs of a run while it trains: the log line, metrics.jsonl, TensorBoard, Prometheus' text format, a progress
bar on a terminal and, where it is asked for, Weights & Biases."""

import dataclasses
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tigerjax.files import own, paths
from tigerjax.files.log import Log, records
from tigerjax.files.written import finite
from tigerjax.processes import hosts
from tigerjax.processes.imports import without
from tigerjax.terminal import printable, show, tell
from tigerjax.train.held_out import Figures, flat, lines
from tigerjax.train.starting import Starting
from tigerjax.train.wandb_run import WandbRun

# Dense bfloat16 TFLOP/s of one device by jax's `device_kind` (Google's and NVIDIA's published figures). Elsewhere MFU
# is left out.
PEAK_TFLOPS = {
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
    "TPU7x": 1153.5,  # a chip has two devices and 2,307
    "NVIDIA H100 80GB HBM3": 989.0,
    "NVIDIA H200": 989.0,
}


def mfu(flops_per_s: float, device_kind: str, devices: int) -> float | None:
    """Share of the devices' peak; None where the peak is not known."""
    peak = PEAK_TFLOPS.get(device_kind)
    return None if peak is None else flops_per_s / (peak * 1e12 * devices)


def log_line(record: dict[str, Any], total_steps: int) -> str:
    """`step 1200/3000  loss 1.713 nats  grad 0.84  lr 9.2e-06  412k tok/s  MFU 47.1%  data 0.3%`"""
    parts = [
        f"step {record['step']}/{total_steps}",
        f"loss {record['loss_nats']:.3f} nats",
        f"grad {record['grad_norm']:.2f}",
        f"lr {record['lr']:.1e}",
        f"{_thousands(record['tokens_per_s'])} tok/s",
    ]
    if "reward" in record:
        parts.insert(1, f"reward {record['reward']:.3f}")
    if record.get("mfu") is not None:
        parts.append(f"MFU {record['mfu']:.1%}")
    parts.append(f"data {record['data_wait_share']:.1%}")
    return "  ".join(parts)


def _thousands(rate: float) -> str:
    if rate < 1e3:
        return f"{rate:.0f}"
    return f"{rate / 1e3:.{0 if rate >= 1e4 else 1}f}k" if rate < 1e6 else f"{rate / 1e6:.2f}M"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reporting:
    """How a run is watched while it trains; nothing here changes its results."""

    progress: bool | None = None
    """Whether to draw a progress bar; None: when stdout is a terminal."""
    echo: Callable[[str], None] | None = None
    """Called with each log line; None: it is printed on stdout."""
    starting: Starting | None = None
    """Counts what the start is spent on, since the process began; a line says it. None: counted from this call on."""
    profile_steps: tuple[int, int] | None = None
    """First and last step that are traced to RUN/profile."""
    wandb: str | None = None
    """The Weights & Biases project that gets the logged steps; None: no one does."""
    event: dict[str, Any] | None = None
    """A line for RUN/events.jsonl about this start; None: there is none."""


class MetricsWriter:
    """Writes a record a logged step to RUN/metrics.jsonl, RUN/tensorboard and the terminal; on one host of all."""

    def __init__(
        self,
        run_dir: Path,
        *,
        name: str,
        start_step: int,
        total_steps: int,
        config: Sequence[str] = (),
        reporting: Reporting = Reporting(),  # frozen
    ):
        """Records after `start_step`, which a killed run left behind, are removed, so that every step is there once.
        `config` are the lines of the run's config; Weights & Biases gets them."""
        progress, echo, wandb = reporting.progress, reporting.echo, reporting.wandb
        self._total = total_steps
        self._file: Log | None = None
        self._board: Any = None
        self._wandb: WandbRun | None = None
        self._bar: Any = None
        self._validation: dict[str, float] = {}
        if not hosts.is_writer():
            return
        run_dir.mkdir(parents=True, exist_ok=True)
        self._run_dir = run_dir
        self._board_folder = run_dir / "tensorboard"
        if paths.on_bucket(run_dir):
            self._board_folder = Path(tempfile.mkdtemp(prefix="tensorboard-"))
        self.rewind(start_step)
        self._echo = echo or show
        if wandb is not None:
            self._wandb = WandbRun(run_dir, project=wandb, name=name, config=config)
        if progress if progress is not None else sys.stdout.isatty():
            self._bar = _bar()
            self._task = self._bar.add_task(printable(name), total=total_steps, completed=start_step)
            self._bar.start()
            if echo is None:
                self._echo = lambda line: self._bar.console.print(printable(line), markup=False)

    def rewind(self, step: int) -> None:
        """Removes the records of all steps after `step`: the run does these steps again, and logs them again."""
        if not hosts.is_writer():
            return
        for old in (self._file, self._board):
            if old is not None:
                old.close()
        path = self._run_dir / "metrics.jsonl"
        lines: list[str] = []
        if path.is_file() and step > 0:
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
        self._file = Log(path, lines)
        self._board = _tensorboard(self._board_folder, step)

    def amend(self, step: int, more: dict[str, Any]) -> None:
        """Adds to the record of `step`, the last one there, what an interrupted run did not come to. A step that was
        not logged gets a record."""
        if not hosts.is_writer() or not more:
            return
        last = last_record(self._run_dir)
        self.rewind(step - 1)
        record = (last if last.get("step") == step else {"step": step, "loss_nats": None}) | more
        self._put(record)
        self._echo_all(_held_out_lines(record))

    def advance(self, step: int) -> None:
        """Moves the bar; prints nothing."""
        if self._bar is not None:
            self._bar.update(self._task, completed=step)

    def write(self, record: dict[str, Any]) -> None:
        """One record: `step, loss_nats, grad_norm, lr, tokens_per_s, mfu, data_wait_share, shares` and more."""
        if self._file is not None:
            self._put(record)
            self._echo_all([log_line(record, self._total), *_held_out_lines(record)])

    def _echo_all(self, shown: list[str]) -> None:
        for line in shown:
            self._echo(line)

    def _put(self, record: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(finite(record)))
        scalars = {name: value for name, value in record.items() if isinstance(value, float)}
        scalars |= {f"shares/{source}": share for source, share in (record.get("shares") or {}).items()}
        if validation := record.get("validation") or {}:
            self._validation = {name: value for name, value in flat(validation).items() if value is not None}
            scalars |= {f"validation/{name}": value for name, value in self._validation.items()}
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, record["step"])
        if self._wandb is not None:
            self._wandb.log(record["step"], scalars)
        if not paths.on_bucket(self._run_dir):  # a collector reads it on its own host
            _prometheus(self._run_dir / "metrics.prom", record, self._validation)

    def flush(self) -> None:
        """Writes every record into the run's folder. Called before each save, so that metrics.jsonl has all the steps
        that a checkpoint has."""
        if self._file is not None:
            self._file.flush()
        if self._board is not None:
            self._board.flush()
            if paths.on_bucket(self._run_dir):
                paths.upload(self._board_folder, self._run_dir / "tensorboard")

    def close(self) -> None:
        """Closes the files, removes the bar, and waits (not for ever) until W&B has sent everything."""
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
            if paths.on_bucket(self._run_dir):
                paths.clear(self._board_folder)
        if self._bar is not None:
            self._bar.stop()
        if self._wandb is not None:
            self._wandb.close()


def _held_out_lines(record: dict[str, Any]) -> list[str]:
    return lines(record.get("validation") or {}, whole=False)


def last_record(run_dir: Path) -> dict[str, Any]:
    """The newest record of RUN/metrics.jsonl; empty when nothing was logged yet."""
    return (records(run_dir / "metrics.jsonl") or [{}])[-1]


def last_validation(run_dir: Path) -> Figures:
    """The figures of the newest validation in RUN/metrics.jsonl; empty when there was none yet."""
    return next((r["validation"] for r in reversed(records(run_dir / "metrics.jsonl")) if "validation" in r), {})


def progress_at(run_dir: Path, step: float) -> float | None:
    """Which share of its whole fall the loss of a run had behind it at `step`: (L0 - L) / (L0 - Lend).

    L0 is the median loss of the run's first steps (`start_loss_nats` in RUN/metrics.jsonl). L and Lend are means of the
    last five losses that were logged by `step` and by the end; the very first loss is left out. Means, because the loss
    of one batch says little. None when the run ended before `step`, the start is not known, less than two losses were
    logged by `step`, or the loss did not fall.
    """
    path = run_dir / "metrics.jsonl"
    with own.fields(path, "remove the lines that are wrong"):
        lines = records(path)
        starts = [r["start_loss_nats"] for r in lines if r.get("start_loss_nats") is not None]
        logged = [(r["step"], r["loss_nats"]) for r in lines if r["loss_nats"] is not None]
        until = [loss for at, loss in logged if at <= step]
        if not starts or len(until) < 2 or logged[-1][0] < step:
            return None
        start, there, end = starts[0], _last_five(until), _last_five([loss for _, loss in logged])
        return (start - there) / (start - end) if start > end else None


def _last_five(losses: list[float]) -> float:
    return statistics.mean(losses[1:][-5:])


def _step(line: str) -> float:
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return float("inf")  # a line cut short by a kill
    return step if isinstance(step, int | float) else float("inf")


def _prometheus(path: Path, record: dict[str, Any], validation: dict[str, float]) -> None:
    """Writes the newest record and the newest validation for node_exporter's textfile collector. The file is replaced
    in one go, so that the collector never reads half of it."""
    run = f'run="{_label(path.parent.name)}"'
    lines = [
        f"tigerjax_{re.sub('[^a-zA-Z0-9_]', '_', name)}{{{run}}} {float(value):g}"
        for name, value in record.items()
        if isinstance(value, int | float)
    ]
    shares = {source: f'{run},source="{_label(source)}"' for source in record.get("shares") or {}}
    lines += [f"tigerjax_share{{{labels}}} {record['shares'][source]:g}" for source, labels in shares.items()]
    lines += [f'tigerjax_validation{{{run},figure="{_label(n)}"}} {value:g}' for n, value in validation.items()]
    paths.write_text(path, "\n".join(lines) + "\n")


def _label(text: str) -> str:
    """The value of a label, with what Prometheus' text format escapes."""
    return printable(text).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _tensorboard(folder: Path, start_step: int) -> Any:
    try:
        # It takes torch's tensors too, and imports torch for that where it is installed: seconds, and much memory.
        with without("torch"):
            from tensorboardX import SummaryWriter
    except ImportError:
        tell("tensorboardX is not installed: no TensorBoard files")
        return None
    return SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)


def _bar() -> Any:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.3g} steps/s")

    columns = [
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, transient=True)
