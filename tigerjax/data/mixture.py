"""Sources as SeqIO tasks, training sets as SeqIO mixtures, rates that are token shares.

Each task turns JSONL files into rows of exactly L tokens (chunk, then mix), so a rate in rows *is* a share of
tokens. The order of sources is `loader.schedule`, given to SeqIO as the mixture's sample_fn. A mixture of your own:

    from tigerjax.data.mixture import Source, holistic

    holistic(
        "mine", tokenizer="tok", instruct=Source("sft/*.jsonl"), instruct_fraction=0.05,
        zh={"web": Source("zh_web/*.jsonl.zst", weight=3), "books": Source("zh_books.jsonl", max_epochs=2)},
        en={"wiki": Source("en/*.jsonl")},
    )

in a module that the config's `data.modules` names. Patterns and tokenizer folders are looked up when rows are made,
not at import. Registering a name again replaces it.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import itertools
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax import manifest
from tigerjax.config import DataConfig
from tigerjax.data import records, rows
from tigerjax.data.loader import ROWS_FILE, Loader, schedule
from tigerjax.errors import ConfigError, DataError

Kind = Literal["documents", "plain", "sft"]
HOLISTIC_RANGE = (0.05, 0.10)  # what TigerBot used; outside it a warning
ALLOWED_RANGE = (0.0, 0.2)
FEATURES = ("tokens", "segment_ids", "weights")
ENCODE_DOCUMENTS = 256  # given to the tokenizer in one call


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """JSONL(.zst) files or patterns, their weight within a language, and how often they may be read."""

    files: str | Path | tuple[str | Path, ...]
    weight: float = 1.0
    max_epochs: float | None = None
    """Passing it is a ConfigError; None reads the source as often as the share asks for."""

    def patterns(self) -> tuple[str, ...]:
        return tuple(map(str, (self.files,) if isinstance(self.files, str | Path) else self.files))


@dataclasses.dataclass(frozen=True, slots=True)
class RowMaker:
    """The SeqIO preprocessor of our tasks: records in, rows {tokens, segment_ids, weights} of L out.

    documents: text, eos, chunked.   plain: user "\\n" answer, eos, chunked; every token in the loss, no markers.
    sft: the chat encoding, loss on answers, packed.
    """

    kind: Kind
    patterns: tuple[str, ...]
    tokenizer: str
    max_epochs: float | None
    counts: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)
    """Of the last full pass: records, characters, tokens, overlong, weightless."""

    def records(self) -> Iterator[records.Record]:
        """The validated records of the files."""
        return records.sft_examples(self.patterns) if self.kind != "documents" else records.documents(self.patterns)

    def make(self, given: Iterable[records.Record], length: int) -> Iterator[np.ndarray]:
        """Rows int32 [3, length] of the records; needs no TensorFlow."""
        from tigerjax.tokenizer.load import Tokenizer

        tok = Tokenizer(Path(self.tokenizer))
        self.counts.clear()
        self.counts.update(records=0, characters=0, tokens=0, overlong=0, weightless=0)
        if self.kind == "sft":
            yield from self._pack(given, length, tok)
        else:
            yield from rows.chunk(self._encode(given, tok), length, tok.eos)

    def _encode(self, given: Iterable[records.Record], tok: Any) -> Iterator[list[int]]:
        given = iter(given)
        while group := list(itertools.islice(given, ENCODE_DOCUMENTS)):
            texts = [g["text"] if self.kind == "documents" else plain_text(g) for g in group]
            self.counts["records"] += len(texts)
            self.counts["characters"] += sum(map(len, texts))
            for ids in tok.encode_batch(texts):
                self.counts["tokens"] += len(ids) + 1  # and its eos
                yield ids

    def _pack(self, given: Iterable[records.Record], length: int, tok: Any) -> Iterator[np.ndarray]:
        from tigerjax.tokenizer.chat import encode_chat

        examples = []
        for example in given:
            ids, weights = encode_chat(tok, example["messages"])
            examples.append((ids, [w * example.get("weight", 1.0) for w in weights]))
            self.counts["characters"] += sum(len(m["content"]) for m in example["messages"])
        packed = rows.pack(examples, length, pad=tok.pad or 0)
        self.counts.update(
            records=len(examples),
            tokens=sum(int(np.count_nonzero(row[1])) for row in packed.rows),
            overlong=len(packed.overlong),
            weightless=len(packed.weightless),
        )
        yield from packed.rows

    def __call__(self, dataset: Any, sequence_length: Mapping[str, int]) -> Any:
        import tensorflow as tf

        length = sequence_length["tokens"]

        def generate() -> Iterator[dict[str, np.ndarray]]:
            given = (json.loads(item["record"]) for item in dataset.as_numpy_iterator())
            for row in self.make(given, length):
                yield {"tokens": row[0], "segment_ids": row[1], "weights": rows.row_weights(row)}

        kinds = dict.fromkeys(FEATURES, tf.int32) | {"weights": tf.float32}
        signature = {name: tf.TensorSpec([length], kinds[name]) for name in FEATURES}
        return tf.data.Dataset.from_generator(generate, output_signature=signature)


def plain_text(example: records.Record) -> str:
    """An SFT example as a plain document: user, newline, answer, for every pair of turns."""
    return "\n".join(message["content"] for message in example["messages"])


def _add_task(name: str, maker: RowMaker) -> str:
    import seqio
    import tensorflow as tf

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        def generate() -> Iterator[dict[str, bytes]]:
            for record in maker.records():
                yield {"record": manifest.canonical(record)}

        return tf.data.Dataset.from_generator(generate, output_signature={"record": tf.TensorSpec([], tf.string)})

    vocabulary = seqio.PassThroughVocabulary(size=0)  # rows are made of ids already
    features = {
        "tokens": seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32),
        "segment_ids": seqio.Feature(vocabulary, add_eos=False, dtype=tf.int32),
        "weights": seqio.ContinuousFeature(dtype=tf.float32, rank=1),
    }
    seqio.TaskRegistry.remove(name)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset_fn, splits=("train",)),
        output_features=features,
        preprocessors=[maker],
    )
    return name


def add_documents_task(name: str, source: Source, *, tokenizer: str | Path) -> str:
    """Registers documents ({text}) as a task of full rows; returns its name."""
    return _add_task(name, RowMaker("documents", source.patterns(), str(tokenizer), source.max_epochs))


def add_instruct_task(name: str, source: Source, *, tokenizer: str | Path) -> str:
    """Registers SFT examples as plain documents, all tokens in the loss, full rows; returns the task's name."""
    return _add_task(name, RowMaker("plain", source.patterns(), str(tokenizer), source.max_epochs))


def add_sft_task(name: str, source: Source, *, tokenizer: str | Path) -> str:
    """Registers SFT examples in the chat encoding, loss on answers only, packed; returns the task's name."""
    return _add_task(name, RowMaker("sft", source.patterns(), str(tokenizer), source.max_epochs))


def sample_fn(datasets: list[Any], rates: list[float], seed: int | None) -> Any:
    """SeqIO's mixing of datasets by the loader's schedule; the seed changes nothing, as nothing is drawn."""
    import tensorflow as tf

    choice = tf.data.Dataset.from_generator(
        lambda: (np.int64(i) for i in schedule(rates)), output_signature=tf.TensorSpec([], tf.int64)
    )
    return tf.data.Dataset.choose_from_datasets(datasets, choice, stop_on_empty_dataset=True)


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
    """Registers a mixture of registered tasks; `rates` are token shares, on any scale."""
    import seqio

    if not rates or min(rates.values()) < 0 or sum(rates.values()) <= 0:
        raise ConfigError(f"mixture {name}: rates {dict(rates)} must not be negative, and must not all be 0")
    tasks = [(task, rate) for task, rate in rates.items() if rate > 0]
    seqio.MixtureRegistry.remove(name)
    seqio.MixtureRegistry.add(name, tasks, sample_fn=sample_fn)


def sft(name: str, *, tokenizer: str | Path, examples: Source) -> None:
    """Registers a mixture of one SFT source."""
    add_mixture(name, {add_sft_task(f"{name}.sft", examples, tokenizer=tokenizer): 1.0})


def pretraining(name: str, *, tokenizer: str | Path, sources: Mapping[str, Source]) -> None:
    """Registers a mixture of documents by weight, without instructions."""
    add_mixture(
        name,
        {add_documents_task(f"{name}.{key}", s, tokenizer=tokenizer): s.weight for key, s in sources.items()},
    )


def holistic(
    name: str,
    *,
    tokenizer: str | Path,
    zh: Mapping[str, Source],
    en: Mapping[str, Source],
    instruct: Source,
    instruct_fraction: float,
    zh_share: float = 0.5,
) -> None:
    """Registers the holistic recipe: instructions get f, zh and en share 1 - f, sources share theirs by weight.

    f = 0.1, one source a language: {name.instruct: 0.1, name.zh.X: 0.45, name.en.Y: 0.45}. Code counts as English.
    """
    low, high = ALLOWED_RANGE
    if not low <= instruct_fraction <= high:
        raise ConfigError(f"mixture {name}: instruct_fraction={instruct_fraction} must be in [{low}, {high}]")
    if not HOLISTIC_RANGE[0] <= instruct_fraction <= HOLISTIC_RANGE[1]:
        warnings.warn(
            f"mixture {name}: instruct_fraction={instruct_fraction} is outside the published {list(HOLISTIC_RANGE)}",
            stacklevel=2,
        )
    if not 0 <= zh_share <= 1:
        raise ConfigError(f"mixture {name}: zh_share={zh_share} must be in [0, 1]")
    rates = {add_instruct_task(f"{name}.instruct", instruct, tokenizer=tokenizer): instruct_fraction}
    for lang, sources, share in (("zh", zh, zh_share), ("en", en, 1 - zh_share)):
        total = sum(s.weight for s in sources.values())
        if share and total <= 0:
            raise ConfigError(f"mixture {name}: {lang} has share {share} but no source with a weight above 0")
        for key, source in sources.items():
            task = add_documents_task(f"{name}.{lang}.{key}", source, tokenizer=tokenizer)
            rates[task] = (1 - instruct_fraction) * share * source.weight / total if total else 0.0
    add_mixture(name, rates)


def get_mixture(name: str) -> Any:
    """The registered SeqIO mixture; a ConfigError that names near misses when there is none."""
    import seqio

    if name not in seqio.MixtureRegistry.names():
        near = difflib.get_close_matches(name, seqio.MixtureRegistry.names()) or sorted(seqio.MixtureRegistry.names())
        raise ConfigError(f"mixture {name!r} is not registered; data.modules must name its module; there are {near}")
    return seqio.MixtureRegistry.get(name)


def _maker(task: Any) -> RowMaker | None:
    return next((p for p in task.preprocessors if isinstance(p, RowMaker)), None)


@contextlib.contextmanager
def _our_errors(task: str) -> Iterator[None]:
    """TensorFlow wraps an exception of a generator into its own; this gives ours back, naming the source."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        found = re.search(r"(DataError|ConfigError): (.*)", error.message)
        if not found:
            raise
        kind: Callable[[str], Exception] = DataError if found[1] == "DataError" else ConfigError
        raise kind(f"source {task}: {found[2]}") from error


def task_rows(task: Any, seq_len: int) -> Iterator[np.ndarray]:
    """One pass over a task's rows int32 [3, L], through SeqIO, in order."""
    with _our_errors(task.name):
        dataset = task.get_dataset(dict.fromkeys(FEATURES, seq_len), split="train", shuffle=False)
        for item in dataset.as_numpy_iterator():
            yield rows.make_row(item["tokens"], item["segment_ids"], item["weights"])


def cache(mixture: str, tokenizer: str | Path, cache_dir: str | Path, seq_len: int) -> dict[str, Path]:
    """Writes the rows of every task of a mixture to CACHE_DIR/<task>/; what is unchanged is skipped.

    manifest.json's `figures`: rows, tokens, seq_len, tokenizer_sha256, rows_sha256, records, characters,
    left_over (tokens that filled no row), overlong and weightless (examples dropped).
    """
    from array_record.python import array_record_module

    from tigerjax.tokenizer.load import Tokenizer

    sha = Tokenizer(Path(tokenizer)).sha256
    folders = {}
    for task in get_mixture(mixture).tasks:
        folder = folders[task.name] = Path(cache_dir) / task.name
        maker = _maker(task)
        inputs: list[Path] = []
        if maker is not None:
            try:
                inputs = records.expand(maker.patterns)
            except DataError as error:
                raise DataError(f"source {task.name}: {error}") from error
            if (own := Tokenizer(Path(maker.tokenizer)).sha256) != sha:
                raise DataError(
                    f"source {task.name} is registered with tokenizer {maker.tokenizer} ({own[:12]}), but"
                    f" {tokenizer} ({sha[:12]}) is asked for; make data.tokenizer and the mixture agree"
                )
        config = {
            "task": task.name,
            "kind": maker.kind if maker else "custom",
            "seq_len": seq_len,
            "tokenizer_sha256": sha,
        }
        with manifest.stage(folder, name="cache", config=config, inputs=inputs) as run:
            if run.done:
                continue
            writer = array_record_module.ArrayRecordWriter(str(run.tmp / ROWS_FILE), "group_size:1,uncompressed")
            digest, count, tokens = hashlib.sha256(), 0, 0
            for row in task_rows(task, seq_len):
                data = row.astype("<i4").tobytes()
                writer.write(data)
                digest.update(data)
                count += 1
                tokens += int(np.count_nonzero(row[1]))
            writer.close()
            found = dict(maker.counts) if maker else {}
            if not count:
                raise DataError(
                    f"source {task.name} is empty: {found.get('records', 0)} records with {found.get('tokens', 0)}"
                    f" tokens in {[str(p) for p in inputs]} fill no row of {seq_len}; add data or lower data.seq_len"
                )
            run.figures = {
                **found,
                "rows": count,
                "tokens": tokens,
                "left_over": found.get("tokens", tokens) - tokens,
                "seq_len": seq_len,
                "tokenizer_sha256": sha,
                "rows_sha256": digest.hexdigest(),
            }
    return folders


def check_epochs(sources: Mapping[str, tuple[float, int, float | None]], total_rows: int) -> None:
    """ConfigError with a table when `total_rows` need more of a source {name: (share, rows, max_epochs)} than it has."""
    lines, short = [], False
    for name, (share, available, limit) in sorted(sources.items()):
        needed = share * total_rows
        bad = limit is not None and needed > limit * available
        short |= bad
        lines.append(
            f"  {name:32} {share:7.4f} {needed:12.0f} {available:10} {needed / available:8.2f}"
            f" {'-' if limit is None else limit:>10}{'  EXHAUSTED' if bad else ''}"
        )
    if short:
        head = f"  {'source':32} {'share':>7} {'rows needed':>12} {'available':>10} {'epochs':>8} {'max_epochs':>10}"
        raise ConfigError(
            f"{total_rows} rows need more than max_epochs of a source; add data, train fewer steps, lower its share"
            " or raise max_epochs\n" + "\n".join([head, *lines])
        )


def open_loader(
    data: DataConfig, *, batch_rows: int, seed: int, host: int = 0, hosts: int = 1, total_rows: int | None = None
) -> Loader:
    """The loader of a config's mixture; builds the caches that are missing or outdated (on a single host only).

    Rows cached with another tokenizer than `data.tokenizer` are a DataError. With `total_rows` (steps x batch_rows),
    exhaustion is found before the start.
    """
    from tigerjax.tokenizer.load import Tokenizer

    for module in data.modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"data.modules names {module}, which cannot be imported: {error}") from error
    mixture = get_mixture(data.mixture)
    sha = Tokenizer(Path(data.tokenizer)).sha256
    folders = {task.name: Path(data.cache_dir) / task.name for task in mixture.tasks}
    for name, folder in folders.items():
        found = manifest.read(folder)
        if found is not None and (old := found["figures"]["tokenizer_sha256"]) != sha:
            raise DataError(
                f"{folder}: rows of {name} were made with tokenizer {old[:12]}, but {data.tokenizer} is {sha[:12]};"
                f" remove the folder (rm -r {folder}) and run `tigerjax data cache CONFIG`, or name the old tokenizer"
            )
    if hosts == 1:
        cache(data.mixture, data.tokenizer, data.cache_dir, data.seq_len)
    limits = {task.name: maker.max_epochs for task in mixture.tasks if (maker := _maker(task)) is not None}
    rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    loader = Loader(folders, rates, batch_rows, data.seq_len, seed, host, hosts, max_epochs=limits)
    if total_rows is not None:
        check_epochs({s.name: (loader.rates[s.name], s.rows, limits.get(s.name)) for s in loader.sources}, total_rows)
    return loader


def stats(data: DataConfig, *, batch_rows: int, seed: int) -> dict[str, Any]:
    """wanted and realised token shares (until the first source has been read once), fill, rows, tokens, sources."""
    loader = open_loader(data, batch_rows=batch_rows, seed=seed)
    counts = dict.fromkeys(loader.names, 0)
    available = loader.rows()
    for chosen in schedule([loader.rates[name] for name in loader.names]):
        name = loader.names[chosen]
        if counts[name] == available[name]:
            break
        counts[name] += 1
    per_row = {s.name: s.figures["tokens"] / s.rows for s in loader.sources}
    seen = {name: counts[name] * per_row[name] for name in loader.names}
    total_rows, tokens = sum(available.values()), sum(s.figures["tokens"] for s in loader.sources)
    return {
        "wanted": loader.rates,
        "realised": {name: value / sum(seen.values()) for name, value in seen.items()},
        "fill": tokens / (total_rows * data.seq_len),
        "rows": total_rows,
        "tokens": tokens,
        "sources": {
            s.name: {k: s.figures.get(k) for k in ("rows", "tokens", "records", "characters", "overlong", "weightless")}
            | {"chars_per_token": s.figures.get("characters", 0) / s.figures["tokens"]}
            for s in loader.sources
        },
    }
