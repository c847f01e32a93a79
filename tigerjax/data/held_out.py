"""Held-out sets: rows of documents and SFT examples that are not trained on, with what each row is of.

A row holds records of one language, source and task only, so that the sums of a row are figures of these. Rows are made
as those of training are, and cached below the rows of the sources. Two things differ: what is left at the end of the
documents gives a last row with padding, and every token counts once: the weights that examples and answers have in
training are not used, but an answer of weight 0 does not count.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.config import DataConfig, EvalConfig
from tigerjax.data import dropped, mixture, row_files
from tigerjax.data.loader import CachedSource
from tigerjax.data.row_files import AGAIN
from tigerjax.data.tasks import Kind, RowMaker, row_maker
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.progress import Progress
from tigerjax.processes import hosts
from tigerjax.records.seqio_tasks import import_modules
from tigerjax.tokenizer.load import Tokenizer

FOLDER = "held_out"
"""Below `data.cache_dir`, with a folder for each set."""
MOST_NAMES = 50
OTHERS = "others"
"""Of the languages, the sources and the tasks of a set, the MOST_NAMES with the most records have figures of their own.
The rest stands together under this name."""


class RowOrigin(NamedTuple):
    """What the records of a row are of."""

    lang: str
    source: str
    task: str


class HeldOutRows(CachedSource):
    """The rows of one held-out set. `groups` are those of its rows, in order: (group, number of rows)."""

    def __init__(self, name: str, folder: str | Path, seq_len: int):
        super().__init__(name, folder, seq_len)
        given = self.figures.get("groups")
        if not isinstance(given, list) or not all(isinstance(g, list) and len(g) == 4 for g in given):
            raise DataError(f"{self.folder / manifest.FILE}: figures lacks groups; {AGAIN}")
        self.groups = [(RowOrigin(*map(str, names)), int(count)) for *names, count in given]
        if (there := sum(count for _, count in self.groups)) != self.rows:
            raise DataError(f"{self.folder / manifest.FILE}: groups of {there} rows, but {self.rows} in all; {AGAIN}")

    @property
    def sha256(self) -> str:
        """Of the rows."""
        return str(self.figures["rows_sha256"])


class _Given(NamedTuple):
    """One held-out set, before its rows are made."""

    maker: RowMaker
    """What makes rows of the set's records. Its kind is that of a source; of the set's own files each record says its
    own."""
    own_kind: bool
    patterns: records.Inputs
    config: dict[str, Any]

    def read(self) -> Iterator[records.Record]:
        if self.own_kind:
            return records.documents_and_examples(self.patterns, counts=self.maker.counts)
        return self.maker.read(held_out=True)

    def kind_of(self, record: records.Record) -> Kind:
        if not self.own_kind:
            return self.maker.kind
        return "documents" if "text" in record else "sft"


def open_sets(
    data: DataConfig, given: EvalConfig, *, of_mixture: bool = True, progress: Progress | None = None
) -> list[HeldOutRows]:
    """The held-out sets of a run, in the order of their names: those of the config, and with `of_mixture` also what the
    sources of the mixture hold out.

    Rows that are missing or outdated are made first, by one host for all. ConfigError where two sets have one name;
    DataError where records cannot be read, or none of a set is in a row.
    """
    sets = _sets(data, given, of_mixture)
    folders = {name: paths.of(data.cache_dir) / FOLDER / name for name in sorted(sets)}
    if hosts.is_writer():
        for name, folder in folders.items():
            _make(name, folder, sets[name], data, progress)
    hosts.barrier("held-out rows cached")
    return [HeldOutRows(name, folder, data.seq_len) for name, folder in folders.items()]


def names_of_sets(data: DataConfig, given: EvalConfig, *, of_mixture: bool = True) -> list[str]:
    """The names of the sets that `open_sets` would open, whose rows are neither made nor read.

    ConfigError where two sets have one name; DataError where a set has no file.
    """
    sets = _sets(data, given, of_mixture)
    for name, one in sets.items():
        _files(name, one.patterns)
    return sorted(sets)


def _sets(data: DataConfig, given: EvalConfig, of_mixture: bool) -> dict[str, _Given]:
    return _given(data, given) | (_of_mixture(data, given) if of_mixture else {})


def _files(name: str, patterns: records.Inputs) -> list[Path]:
    try:
        return records.expand(patterns)
    except DataError as error:
        raise DataError(f"held-out set {name}: {error}") from error


def _given(data: DataConfig, given: EvalConfig) -> dict[str, _Given]:
    found = {}
    for name, files in given.named("sets").items():
        maker = RowMaker("documents", files, data.tokenizer, None)
        found[name] = _Given(maker, True, records.Inputs(files), {"kind": "as each record says"})
    return found


def _of_mixture(data: DataConfig, given: EvalConfig) -> dict[str, _Given]:
    found, taken = {}, given.named("sets").keys() | given.named("questions").keys()
    import_modules(data.modules, mixture.MODULES)
    for task in mixture.tasks_of(data):
        split = row_maker(task)
        if split is None or not split.split.share:
            continue
        if task.name in taken:
            raise ConfigError(
                f"eval: {task.name} is also the name of what that source holds out; give another name, NAME=PATH"
            )
        found[task.name] = _Given(split, False, split.inputs(), {"kind": split.kind} | split.settings())
    return found


def _make(name: str, folder: Path, given: _Given, data: DataConfig, progress: Progress | None) -> None:
    """Writes the rows of a set to `folder`, unless they are there; says what is in no row."""
    what, tokenizer = f"held-out set {name}", Tokenizer(data.tokenizer)
    config = {
        "set": name,
        "format": row_files.MAGIC.decode(),
        "seq_len": data.seq_len,
        "encoding_sha256": tokenizer.encoding_sha256,
    }
    config |= given.config | records.inputs_config(given.patterns)
    files = _files(name, given.patterns)
    hashing = progress and progress(f"{what}: hashed", "GB")
    inputs = [*files, *given.maker.split.files()]
    with manifest.stage(folder, name="held-out", config=config, inputs=inputs, hashing=hashing) as run:
        if not run.done:
            groups: Counter[RowOrigin] = Counter()
            written = row_files.write(run.tmp, _rows(given, groups, data.seq_len, tokenizer))
            counts = dict(given.maker.counts)
            if not written["rows"]:
                raise _empty(what, given, counts, files, data.seq_len)
            made = [[*group, count] for group, count in groups.items()]
            figures = {"seq_len": data.seq_len, "tokenizer_sha256": tokenizer.sha256, "groups": made}
            run.figures = counts | written | figures
    figures = (run.manifest or {})["figures"]
    records.tell(what, figures)
    if why := dropped.reasons(figures, data.seq_len):
        lost, total = figures["overlong"] + figures["weightless"], figures["records"]
        records.note(f"{what}: {lost} of {total} records count in no figure: {why}")


def _empty(what: str, given: _Given, counts: Mapping[str, int], files: Sequence[Path], seq_len: int) -> DataError:
    if given.own_kind or counts["records"]:
        return dropped.empty(what, counts, files, seq_len)
    share = given.maker.split.share
    return DataError(f"{what} is empty: held_out={share} takes no record of {[str(p) for p in files]}; raise it")


def _rows(given: _Given, made: Counter[RowOrigin], length: int, tok: Tokenizer) -> Iterator[np.ndarray]:
    """The rows of a set, group by group. `made` gets the number of rows of each group, the maker's counts the rest."""
    maker = given.maker
    maker.counts.clear()
    maker.counts["records"] = 0
    by_group: dict[tuple[RowOrigin, Kind], list[records.Record]] = defaultdict(list)
    for group, record in _grouped(list(given.read())):
        by_group[group, given.kind_of(record)].append(record)
    for (group, kind), members in sorted(by_group.items()):
        for row in maker.of_kind(kind).held_out_rows(members, length, tok):
            made[group] += 1
            yield row


def _grouped(given: list[records.Record]) -> Iterator[tuple[RowOrigin, records.Record]]:
    """Each record with its group."""
    kept = {field: _most_frequent(_name(record, field) for record in given) for field in RowOrigin._fields}
    for record in given:
        names = {field: _name(record, field) for field in RowOrigin._fields}
        yield RowOrigin(**{field: name if name in kept[field] else OTHERS for field, name in names.items()}), record


def _name(record: Mapping[str, Any], field: str) -> str:
    return str(record.get(field) or "").strip() or records.NOT_GIVEN


def _most_frequent(names: Iterable[str]) -> set[str]:
    counts = Counter(names)
    return set(sorted(counts, key=lambda name: (-counts[name], name))[:MOST_NAMES])
