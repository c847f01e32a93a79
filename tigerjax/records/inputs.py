"""The files that a command's inputs name."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.foreign import read_object
from tigerjax.files.manifest import refuse_changed, size
from tigerjax.records.block import READING, Reading
from tigerjax.records.columnar import SPLIT, SPLITS
from tigerjax.records.formats import (
    Files,
    is_a_dataset,
    is_a_file_of_records,
    jsonl_by_content,
    output_name,
    reading_of,
)
from tigerjax.records.hub import hub_files, on_hub
from tigerjax.records.ids import Ids
from tigerjax.records.notes import note, shown
from tigerjax.records.seqio_tasks import depends_on, is_task_file
from tigerjax.records.tensorflow_files import tfds_folder

Paths = str | Path | Iterable[str | Path]
TFDS = "tfds:"


class Inputs(list[str | Path]):
    """Paths and patterns, how their files are read, and how the records get their ids."""

    def __init__(self, patterns: Iterable[str | Path], ids: Ids = "auto", reading: Reading = READING):
        super().__init__(patterns)
        self.ids: Ids = ids
        self.reading = reading


def ids_of(patterns: Paths) -> Ids:
    """How the records of these inputs get their ids."""
    return patterns.ids if isinstance(patterns, Inputs) else "auto"


def inputs_config(patterns: Paths) -> dict[str, Any]:
    """The entries of a stage's config for what changes its records and is no byte of a file: `ids_of`, the text unit,
    and what SeqIO tasks depend on; none for defaults."""
    unit = reading_of(patterns).text_unit
    ids: dict[str, Any] = {} if ids_of(patterns) == "auto" else {"ids": ids_of(patterns)}
    given = [patterns] if isinstance(patterns, str | Path) else patterns
    ids |= depends_on(paths.of(pattern) for pattern in given if is_task_file(Path(pattern)))
    return ids if unit == READING.text_unit else ids | {"text_unit": unit}


def expand(patterns: Paths) -> Files:
    """The files and folders that paths, glob patterns, tfds:NAME and hf://datasets/… stand for, sorted within a
    pattern. They are read as the `Inputs` say.

    The folder of a finished stage stands for the files of records in it.

    Raises DataError for a pattern that matches nothing, and for files of a finished stage that are not as it wrote
    them, ConfigError for a file that is named twice: its records would count twice.
    """
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str | Path) else patterns:
        if str(pattern).startswith(TFDS):
            files.append(tfds_folder(str(pattern).removeprefix(TFDS)))
            continue
        if on_hub(pattern):
            files += hub_files(pattern)
            continue
        matches = [path] if (path := paths.of(pattern)).is_file() else paths.matching(pattern)
        if not matches:
            raise DataError(f"{pattern}: no such file; name a file, or a pattern that matches one")
        for path in matches:
            if not paths.on_bucket(path) and path.exists() and not path.is_file() and not path.is_dir():
                raise DataError(f"{path}: is a pipe or a device, which is read only once; write it to a file")
            if is_task_file(path) and path != paths.of(pattern):
                raise ConfigError(
                    f"{path} names a SeqIO task, whose code would run; leave it out, or give its own name"
                )
            files += _of_stage(path) or [path]
    if twice := [path for path, times in Counter(files).items() if times > 1]:
        raise ConfigError(f"input {twice[0]} is given twice; give it once")
    refuse_changed(files)
    if misnamed := [path for path in files if jsonl_by_content(path, reading_of(patterns))]:
        note(f"{shown(misnamed)}: named .txt, but the first line is a JSON object, so it is read as JSONL")
    return Files(files, reading_of(patterns))


def _other_splits(folder: Path) -> list[str]:
    """The splits of a `datasets` folder that are not read, where it has several."""
    there = read_object(folder / SPLITS, "save the dataset again").get("splits") if (folder / SPLITS).is_file() else ()
    return sorted(str(name) for name in there if name != SPLIT) if isinstance(there, list) else []


def _of_stage(path: Path) -> list[Path]:
    """The files of records that a stage wrote into its folder, what it notes in folders below left out."""
    if not path.is_dir():
        return []
    if is_a_dataset(path):
        if others := _other_splits(path):
            note(f"{path}: the split {SPLIT!r} is read, and not {', '.join(others)}; name a split's own folder for it")
        return []
    outputs = (manifest.read(path) or {}).get("outputs") or []
    names = [output["path"] for output in outputs]
    return [path / name for name in names if "/" not in name and is_a_file_of_records(name)]


def distinct_names(files: Iterable[Path]) -> None:
    """Raises ConfigError for two inputs that a stage would write to one file, OUT/<output_name of the input>."""
    names: dict[str, Path] = {}
    for path in files:
        other = names.setdefault(output_name(path), path)
        if other is not path:
            raise ConfigError(f"inputs {other} and {path} have one name; outputs would collide, rename one")


def speed(files: Iterable[Path], seconds: float, cores: int | None = 1) -> dict[str, float]:
    """The figures of a stage that read these files on so many cores: `seconds`, and `mb_per_s_per_core`.

    The latter is `mb_per_s` where the number of cores is not known.
    """
    rate = sum(map(size, files)) / 1e6 / max(seconds, 1e-9)
    if cores is None:
        return {"seconds": round(seconds, 3), "mb_per_s": round(rate, 3)}
    return {"seconds": round(seconds, 3), "mb_per_s_per_core": round(rate / cores, 3)}
