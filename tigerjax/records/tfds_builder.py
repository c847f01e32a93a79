"""Makes a TFDS dataset from files of records, also by `tigerjax data tfds`; a mixture reads it by name or folder.

    tigerjax data tfds --input zh/*.jsonl --name zh_books --out tfds      writes tfds/zh_books/1.0.0
    Source("tfds:zh_books:1.0.0")                                              with TFDS_DATA_DIR=tfds
    Source("tfds/zh_books/1.0.0")                                              or by its folder

The dataset has one split, train, in the order of the files. The fields of a record that are not in COLUMNS stand as one
JSON object in the column `json`, so that every record comes back as it was (`tigerjax.records.tensorflow_files`).
"""

import contextlib
import io
import itertools
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.jsonl import Record
from tigerjax.files.progress import Progress
from tigerjax.records.inputs import Inputs, expand, ids_of, inputs_config
from tigerjax.records.tensorflow_files import JSON_COLUMN, SPLIT
from tigerjax.records.tf import start
from tigerjax.records.validated import documents, sft_examples

Kind = Literal["documents", "sft"]
COLUMNS = {"documents": ("id", "text", "source", "lang"), "sft": ("id", "task", "source", "lang")}
"""The columns that hold text. Those of sft also have `messages`, a sequence of {role, content}; messages with other
fields, such as a weight, stand in the column `json`."""
NAME, VERSION = re.compile(r"[a-z][a-z0-9_]*"), re.compile(r"\d+\.\d+\.\d+")


def build(
    inputs: Sequence[str | Path],
    data_dir: Path,
    name: str,
    *,
    kind: Kind = "documents",
    version: str = "1.0.0",
    progress: Progress | None = None,
    verify: bool = False,
) -> dict[str, Any]:
    """Writes DATA_DIR/NAME/VERSION from validated records; returns the manifest, with the figures {records, bytes}.

    `verify` is that of `manifest.stage`.

    Raises ConfigError for a name or version that TFDS does not take, and DataError where there is no record.
    """
    if not NAME.fullmatch(name) or not VERSION.fullmatch(version):
        raise ConfigError(
            f"TFDS dataset {name}:{version}: a name must be lower-case letters, digits and _, a version three numbers"
        )
    _, _ = start()
    import tensorflow_datasets as tfds

    files = expand(inputs)
    out = paths.of(data_dir) / name / version
    config = {"name": name, "version": version, "kind": kind, **inputs_config(inputs)}
    hashing = progress and progress("hashed", "GB")
    with manifest.stage(out, name="tfds", config=config, inputs=files, hashing=hashing, verify=verify) as run:
        if run.done:
            return run.manifest or {}
        named = Inputs(files, ids_of(inputs), files.reading)
        given = documents(named) if kind == "documents" else sft_examples(named)
        if (first := next(given, None)) is None:
            raise DataError(f"{', '.join(map(str, files))}: no records; give files that hold some")
        text = tfds.features.Text()
        columns: dict[str, Any] = {column: text for column in (*COLUMNS[kind], JSON_COLUMN)}
        if kind == "sft":
            columns["messages"] = tfds.features.Sequence({"role": text, "content": text})
        scratch, report = run.tmp / "scratch", progress and progress("wrote", "records")
        with _silence(tfds):
            builder = tfds.dataset_builders.store_as_tfds_dataset(
                name=name,
                version=version,
                features=tfds.features.FeaturesDict(columns),
                split_datasets={SPLIT: _Rows(itertools.chain([first], given), kind, report)},
                data_dir=str(scratch),
                description=f"{kind} written by `tigerjax data tfds`",
                disable_shuffling=True,
            )
        for path in sorted(Path(builder.data_path).iterdir()):
            path.rename(run.tmp / path.name)
        shutil.rmtree(scratch)
        split = builder.info.splits[SPLIT]
        run.counts = {"in": split.num_examples, "out": split.num_examples, "dropped": {}}
        run.figures = {"records": split.num_examples, "bytes": split.num_bytes}
    return run.manifest or {}


@contextlib.contextmanager
def _silence(tfds: Any) -> Iterator[None]:
    """Hides TFDS's progress bars, its notice of a download (there is none), and absl's warnings."""
    from absl import logging

    tfds.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


class _Rows:
    """(number, columns) of records, which is how TFDS wants them; it keeps the order of the numbers."""

    def __init__(self, given: Iterator[Record], kind: Kind, report: Callable[[int, int], None] | None):
        self._given, self._texts, self._report = given, COLUMNS[kind], report
        self._columns = {*self._texts, *(("messages",) if kind == "sft" else ())}

    def __iter__(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, record in enumerate(self._given):
            others = {k: v for k, v in record.items() if k not in self._columns or not self._fits(k, v)}
            empty: dict[str, Any] = {k: [] if k == "messages" else "" for k in self._columns}
            row = {k: record[k] if k not in others else empty[k] for k in self._columns}
            yield number, row | {JSON_COLUMN: manifest.canonical(others).decode()}
            if self._report is not None:
                self._report(number + 1, 0)

    def _fits(self, column: str, value: Any) -> bool:
        if column == "messages":
            return all(message.keys() == {"role", "content"} for message in value)
        return isinstance(value, str) or column not in self._texts
