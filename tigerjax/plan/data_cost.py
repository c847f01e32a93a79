"""What the stages of text cost at full size, from two samples.

Every stage runs as the command that a user would start, in a process of its own, over a small sample and a larger one.
What both cost alike is fixed: the start, the imports, the index of the instruction data. The rest grows with the text.
"""

import dataclasses
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import manifest
from tigerjax.plan import data_sample

SMALL_SHARE = 1 / 6
LOOK_S = 0.05
CACHE = """
import sys
from tigerjax.data import mixture
from tigerjax.data.caching import Caching
tokenizer, out, length, runner, *files = sys.argv[1:]
mixture.pretraining("plan", tokenizer=tokenizer, sources={"all": mixture.Source(tuple(files))})
mixture.cache("plan", Caching(tokenizer=tokenizer, cache_dir=out, seq_len=int(length), runner=runner))
"""
ARRAYS = (".npy", ".npz")
"""What the steps of a stage hand to each other."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedStages:
    """The stages that are planned, and where they will run."""

    stages: Sequence[str]
    sft: Sequence[Path] = ()
    evaluation_sets: Sequence[Path] = ()
    quality_model: Path | None = None
    tokenizer: Path | None = None
    seq_len: int = 2048
    runner: str = "local"
    workers: int = 1
    """Cores that work at one time."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A stage over one sample."""

    seconds: float
    """Of a core: CPU seconds on this machine, seconds by the clock on a cluster, to which a sample gives one task."""
    peak_gb: float
    disk: int
    """Bytes of its work and its output together, when they were most."""
    shuffled: int
    out: int


def command(stage: str, given: Sequence[Path], out: Path, wanted: PlannedStages) -> list[str]:
    """The words that run a stage."""
    files, data = list(map(str, given)), [sys.executable, "-m", "tigerjax", "data"]
    rest = ["--out", str(out), "--runner", wanted.runner]
    match stage:
        case "clean":
            return [*data, "clean", "--input", *files, *rest]
        case "language":
            return [*data, "language", "--input", *files, *rest]
        case "quality":
            return [*data, "quality", "score", "--input", *files, "--model", str(wanted.quality_model), *rest]
        case "exact" | "near" | "soft" | "substrings" | "site-lines":
            return [*data, "dedup", stage, "--input", *files, *rest]
        case "against-sft":
            return [*data, "dedup", "against-sft", "--docs", *files, "--sft", *map(str, wanted.sft), *rest]
        case "decontaminate":
            sets = map(str, wanted.evaluation_sets)
            return [*data, "decontaminate", "--docs", *files, "--evaluation-sets", *sets, *rest]
    how = [str(wanted.tokenizer), str(out), str(wanted.seq_len), wanted.runner]
    return [sys.executable, "-c", CACHE, *how, *files]


def _bytes(folder: Path) -> tuple[int, int]:
    """(all bytes below a folder, those of ARRAYS). Files come and go meanwhile."""
    total = arrays = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                size = os.stat(os.path.join(place, name)).st_size
            except OSError:
                continue
            total += size
            arrays += size if name.endswith(ARRAYS) else 0
    return total, arrays


def run(stage: str, given: Sequence[Path], folder: Path, wanted: PlannedStages) -> Measured:
    """Runs a stage into `folder`/out. DataError with its last line where it fails."""
    folder.mkdir()
    most = [0, 0]
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            now = _bytes(folder)
            most[:] = [max(most[0], now[0]), max(most[1], now[1])]

    with tempfile.TemporaryFile() as said:
        env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
        started = _clock()
        process = subprocess.Popen(
            command(stage, given, folder / "out", wanted), env=env, stdout=said, stderr=subprocess.STDOUT
        )
        watching = threading.Thread(target=look, daemon=True)
        watching.start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        taken = usage.ru_utime + usage.ru_stime if wanted.runner == "local" else _clock() - started
        over.set()
        watching.join()
        if process.returncode:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            why = lines[-1].removeprefix("tigerjax: ") if lines else str(process.returncode)
            for path in given:  # a file of ours, which is gone when the user reads this
                why = why.replace(f"{path}:", "record ").replace(str(path), "the sample")
            raise DataError(f"stage {stage} of a sample of your text failed: {why}; correct that, and plan again")
    left, _ = _bytes(folder / "out")
    return Measured(taken, usage.ru_maxrss * 1024 / 1e9, max(most[0], left), most[1], left)


def _clock() -> float:
    return os.times().elapsed


def tokens_of(folder: Path) -> int:
    """The tokens that `cache` made of a sample, those that filled no row too."""
    figures = (manifest.read(folder / "plan.all") or {})["figures"]
    return int(figures["tokens"] + figures["left_over"])


def line(small: float, large: float, megabytes: tuple[float, float]) -> tuple[float, float]:
    """(fixed, per megabyte) of the line through two measurements; a fixed part below 0 is noise, and is 0."""
    slope = max(0.0, (large - small) / (megabytes[1] - megabytes[0]))
    fixed = small - slope * megabytes[0]
    return (fixed, slope) if fixed >= 0 else (0.0, large / megabytes[1])


def plan(
    files: Sequence[Path],
    total_mb: float,
    sample_mb: float,
    wanted: PlannedStages,
    reading: records.Reading,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The figures of the stages for `total_mb` of text, of which at most `sample_mb` are run. `say` shows the progress.

    Raises DataError where a stage fails, and where nothing of the sample is left after it.
    """
    runs: list[dict[str, Measured]] = []
    megabytes: list[float] = []
    with tempfile.TemporaryDirectory(prefix="tigerjax-data-plan-") as name:
        held = data_sample.write(files, min(sample_mb, total_mb), Path(name) / "held.jsonl", reading)
        for size in (held * SMALL_SHARE, held):
            work = Path(name) / f"{size:g}"
            work.mkdir()
            given = [work / "sample.jsonl"]
            megabytes.append(data_sample.write(files, size, given[0], reading))
            if size < held <= megabytes[-1]:
                raise DataError(
                    f"{records.shown(files)}: {held:.3f} MB of text, of which no smaller sample can be taken; give more"
                    " text"
                )
            measured: dict[str, Measured] = {}
            for stage in wanted.stages:
                say(f"{stage}, {megabytes[-1]:.1f} MB")
                measured[stage] = run(stage, given, work / stage, wanted)
                if stage != "cache":
                    given = [path for path in (work / stage / "out").glob("*.jsonl")]
                if not measured[stage].out or not given:
                    raise DataError(f"nothing of the sample is left after stage {stage}; give a larger --sample-mb")
            runs.append(measured)
            tokens = tokens_of(work / "cache" / "out") if "cache" in wanted.stages else None
            shutil.rmtree(work)
    small, large = megabytes
    both = (small, large)
    stages = {
        stage: _figures(runs[0][stage], runs[1][stage], both, total_mb, wanted.workers) for stage in wanted.stages
    }
    figures = {
        "input_mb": round(total_mb, 3),
        "samples_mb": [round(size, 3) for size in megabytes],
        "runner": wanted.runner,
        "workers": wanted.workers,
        "stages": stages,
        "core_hours": sum(stage["core_hours"] for stage in stages.values()),
        "hours": sum(stage["hours"] for stage in stages.values()),
        "peak_gb_of_a_worker": max(stage["peak_gb_of_a_worker"] for stage in stages.values()),
        "disk_gb": max(stage["disk_gb"] for stage in stages.values()),
    }
    return figures | ({} if tokens is None else {"tokens": round(tokens / large * total_mb)})


def _figures(
    small: Measured, large: Measured, megabytes: tuple[float, float], total_mb: float, workers: int
) -> dict[str, float]:
    fixed, slope = line(small.seconds, large.seconds, megabytes)
    per_mb = 1e3 * megabytes[1]  # bytes of the larger sample to GB of the whole: x total_mb / its MB / 1e9
    figures = {
        "fixed_s": fixed,
        "s_per_mb": slope,
        "core_hours": (fixed + slope * total_mb) / 3600,
        "hours": (fixed + slope * total_mb / workers) / 3600,
        "peak_gb_of_a_worker": large.peak_gb,
        "disk_gb": large.disk * total_mb / per_mb / 1e6,
        "shuffle_gb": large.shuffled * total_mb / per_mb / 1e6,
        "out_gb": large.out * total_mb / per_mb / 1e6,
    }
    return {name: float(f"{value:.3g}") for name, value in figures.items()}


def training(figures: Mapping[str, Any], of_training: Mapping[str, Any]) -> dict[str, float]:
    """What the tokens are worth in training: days and chip-hours by the figures of `tigerjax plan CONFIG --json`."""
    from tigerjax.plan.figures import duration

    return {name: value for name, value in duration(dict(of_training), figures["tokens"]).items() if name != "tokens"}
