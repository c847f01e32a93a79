"""A source as a SeqIO task, which turns the records of files into rows of exactly L tokens."""

import contextlib
import dataclasses
import functools
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from tigerjax import records
from tigerjax.config.ranges import Factor, PositiveFactor, Range, RecordMb, check
from tigerjax.data import rows, weighted
from tigerjax.data.split import NOTHING, SHARES, Split
from tigerjax.errors import ConfigError, DataError, again
from tigerjax.files import manifest, paths
from tigerjax.records.tf import start
from tigerjax.tokenizer.chat import Overlong

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer

Encoded = tuple[Sequence[int], Sequence[float]]
"""(ids of a record, the loss weight of each); no weights stand for 1 everywhere."""
Kind = Literal["documents", "plain", "sft"]
FEATURES = ("tokens", "segment_ids", "weights")
BLOCK = 256  # records or rows that go to TensorFlow together; one alone would cost about as much as these


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Files of records (or patterns, or folders), their weight within a language, and how often they may be read."""

    files: str | Path | tuple[str | Path, ...]
    weight: Factor = 1.0
    max_epochs: PositiveFactor | None = None
    """To read the source more often is a ConfigError; None reads it as often as its share needs."""
    text_unit: records.TextUnit = "line"
    """What of a plain text file is a document."""
    max_record_mb: RecordMb = records.READING.max_bytes / 1e6
    """A record of more megabytes is an error."""
    held_out: Annotated[float, SHARES] = 0.0
    """The share of the records that is not trained on: a held-out set with the name of the task, for validation."""
    passes: Annotated[int, Range(1, 64)] | None = None
    """Reads the field `weight` of documents, which says how often each is read in an epoch (`data.weighted`). Rows are
    made for so many epochs, each with its own choice; later ones begin with the first again. None: it is not read."""
    clusters: str | Path | tuple[str | Path, ...] = ()
    """Near duplicates that are held out together: folders of `tigerjax data dedup near`, or their clusters.jsonl."""

    def __post_init__(self) -> None:
        check(self, "Source ")
        self.split()  # ConfigError for clusters of a source that holds nothing out

    def patterns(self) -> tuple[str, ...]:
        return _texts(self.files)

    def split(self) -> Split:
        return Split(self.held_out, _texts(self.clusters))

    def reading(self) -> records.Reading:
        return records.Reading(self.text_unit, int(self.max_record_mb * 1e6))


def _texts(given: str | Path | tuple[str | Path, ...]) -> tuple[str, ...]:
    return tuple(map(str, (given,) if isinstance(given, str | Path) else given))


@dataclasses.dataclass(frozen=True, slots=True)
class RowMaker:
    """The SeqIO preprocessor of our tasks, which makes rows {tokens, segment_ids, weights} of records.

    kind "documents": the text and eos, chunked. "plain": an SFT example as a document, its messages joined by newlines,
    and eos; chunked, with every token in the loss and no markers. An example that has weight 0, or an answer of weight
    0, is left out, as the loss of a chunk cannot be. "sft": the chat encoding, packed, with the loss on answers.
    """

    kind: Kind
    patterns: tuple[str, ...]
    tokenizer: str
    max_epochs: float | None
    counts: dict[str, int] = dataclasses.field(default_factory=dict, compare=False)
    """What the last full pass counted: records, characters, tokens, overlong, weightless, and perhaps shortened and
    what `records.changes` names."""
    overlong: Overlong = "drop"
    """For "sft": what is done with a dialogue longer than a row. Those that are dropped are counted."""

    reading: records.Reading = records.READING
    split: Split = NOTHING
    passes: int | None = None
    """For "documents": that of the Source. The rows of a pass follow those of the pass before."""
    pass_rows: list[int] = dataclasses.field(default_factory=list, compare=False)
    """The rows of each pass, of what was made last."""

    sequence_length: Mapping[str, int] | None = None
    """{"tokens": L}. SeqIO sets a field of this name before it calls a preprocessor."""

    def settings(self) -> dict[str, Any]:
        """What of its settings changes the rows of the same files, for the config of their stage."""
        own: dict[str, Any] = {} if self.overlong == "drop" else {"overlong": self.overlong}
        own |= {"passes": self.passes} if self.passes else {}
        return own | ({"held_out": self.split.share} if self.split.share else {})

    def same_rows(self) -> "RowMaker":
        """Equal for the makers of the same rows, whatever else their sources say."""
        return dataclasses.replace(self, max_epochs=None, sequence_length=None)

    def of_kind(self, kind: Kind) -> "RowMaker":
        """A maker of another kind, which adds to the same counts."""
        return dataclasses.replace(self, kind=kind)

    def inputs(self) -> records.Inputs:
        """The files, and how they are read."""
        return records.Inputs(self.patterns, reading=self.reading)

    def read(self, *, held_out: bool = False) -> Iterator[records.Record]:
        """The validated records of the files that are trained on, or those that are held out.

        With `passes`, those of each pass, one after the other, as often as their weights say.
        """
        if held_out or not self.passes:
            yield from self._read(held_out)
            return
        of_weights: dict[str, int] = {}
        for number in range(self.passes):
            yield from weighted.chosen(self._read(False), number, self.passes, of_weights)
        self.counts.update(of_weights)

    def _read(self, held_out: bool) -> Iterator[records.Record]:
        with paths.bucket_errors():  # of an error, TensorFlow passes on only the text
            own: dict[str, int] = {}
            read: Callable[..., Iterator[records.Record]] = records.sft_examples
            if self.kind == "documents":
                read = functools.partial(records.documents, weighted=bool(self.passes))
            choose, others = self.split.chooser(), 0
            for record in read(self.inputs(), counts=own):
                if self.split.share and choose(record["id"]) != held_out:
                    others += 1
                else:
                    yield record
            choose.refuse_strangers()
            if self.split.share and not held_out:
                own["held_out"] = others
            self.counts.update(own)

    def make(self, given: Iterable[records.Record], length: int) -> Iterator[np.ndarray]:
        """Rows int32 [3, length] of the records, made without TensorFlow."""
        from tigerjax.tokenizer.load import Tokenizer

        tok = Tokenizer(Path(self.tokenizer))
        self.counts.clear()
        self.pass_rows.clear()
        if not self.passes:
            yield from self.rows(self.encode(given, length, tok), length, tok)
            return
        self.pass_rows.extend([0] * self.passes)
        for number, of_pass in itertools.groupby(given, key=lambda record: int(record[weighted.PASS])):
            for row in self.rows(self.encode(of_pass, length, tok), length, tok):
                self.pass_rows[number] += 1
                yield row

    def chooses(self) -> bool:
        """Whether some of the records are held out, or left out or repeated by their weights."""
        return bool(self.passes or self.split.share)

    def encode(self, given: Iterable[records.Record], length: int, tok: "Tokenizer") -> Iterator[Encoded]:
        """(ids, loss weights) of each record. A document has no eos yet, and () for weights, as every token counts."""
        given = iter(given)
        while group := list(itertools.islice(given, BLOCK)):
            self.count("records", len(group))
            if self.kind == "sft":
                yield from (self._chat(example, length, tok) for example in group)
                continue
            if self.kind == "plain":
                before, group = len(group), [example for example in group if _has_weight(example)]
                self.count("weightless", before - len(group))
            elif not self.passes and (unread := sum(document.get("weight") not in (None, "") for document in group)):
                self.count(weighted.UNREAD, unread)
            texts = list(map(records.text_of, group))
            self.count("characters", sum(map(len, texts)))
            yield from (([*tok.opening, *ids], ()) for ids in tok.encode_batch(texts))

    def count(self, what: str, more: int) -> None:
        self.counts[what] = self.counts.get(what, 0) + more

    def _chat(self, example: records.Record, length: int, tok: "Tokenizer") -> Encoded:
        from tigerjax.tokenizer.chat import encode_chat, prepared, shorten

        try:
            ids, weights = encode_chat(tok, example["messages"])
        except DataError as error:  # a chat template may refuse what our own encoding takes
            raise DataError(f"example {example.get('id')!r} must be changed or removed: {error}") from error
        characters = sum(len(m["content"]) for m in prepared(tok, example["messages"]))
        if len(ids) > length and (short := shorten(tok, example["messages"], length, self.overlong)):
            ids, weights = short
            characters = len(tok.decode(ids))
            self.count("shortened", 1)
        weights = [w * example.get("weight", 1.0) for w in weights]
        if len(ids) <= length and any(weights[1:]):  # `rows.pack` keeps it; what is dropped has no tokens to count by
            self.count("characters", characters)
        return ids, weights

    def rows(self, encoded: Iterable[Encoded], length: int, tok: "Tokenizer") -> Iterator[np.ndarray]:
        """Rows of all encoded records, in their order; `encode` gives these."""
        for what in ("records", "characters", "tokens", "overlong", "weightless"):
            self.count(what, 0)
        if self.kind != "sft":
            yield from rows.chunk(map(self._document, encoded), length, tok.eos)
            return
        yield from self._packed(encoded, length, tok)

    def held_out_rows(self, given: Iterable[records.Record], length: int, tok: "Tokenizer") -> Iterator[np.ndarray]:
        """Rows of held-out records: no token is left over, and each that is in the loss has weight 1."""
        for what in ("records", "characters", "tokens", "overlong", "weightless"):
            self.count(what, 0)
        encoded = self.encode(given, length, tok)
        if self.kind != "sft":
            yield from rows.chunk(map(self._document, encoded), length, tok.eos, pad=tok.pad or 0)
            return
        once = ((ids, [float(weight > 0) for weight in weights]) for ids, weights in encoded)
        yield from self._packed(once, length, tok)

    def _packed(self, encoded: Iterable[Encoded], length: int, tok: "Tokenizer") -> Iterable[np.ndarray]:
        packed = rows.pack(encoded, length, pad=tok.pad or 0)
        self.count("tokens", packed.tokens)
        self.count("overlong", len(packed.overlong))
        self.count("weightless", len(packed.weightless))
        return packed.rows

    def _document(self, encoded: Encoded) -> Sequence[int]:
        self.counts["tokens"] += len(encoded[0]) + 1  # and its eos
        return encoded[0]

    def __call__(self, dataset: Any) -> Any:
        tf, _ = start()

        if self.sequence_length is None:
            raise ConfigError("rows need a length: call get_dataset with sequence_length={'tokens': L, ...}")
        length = self.sequence_length["tokens"]

        def generate() -> Iterator[dict[str, np.ndarray]]:
            blocks = dataset.batch(BLOCK).as_numpy_iterator()
            made = self.make((json.loads(record) for block in blocks for record in block["record"]), length)
            while group := list(itertools.islice(made, BLOCK)):
                rows_B3T = np.stack(group)
                weights_BT = rows.row_weights(rows_B3T)
                yield {"tokens": rows_B3T[:, 0], "segment_ids": rows_B3T[:, 1], "weights": weights_BT}

        kinds = dict.fromkeys(FEATURES, tf.int32) | {"weights": tf.float32}
        signature = {name: tf.TensorSpec([None, length], kinds[name]) for name in FEATURES}
        return tf.data.Dataset.from_generator(generate, output_signature=signature).unbatch()


def _has_weight(example: records.Record) -> bool:
    """Whether the loss counts in the example and in each of its answers."""
    return example.get("weight", 1.0) > 0 and all(m.get("weight", 1.0) > 0 for m in example["messages"])


def _add_task(name: str, maker: RowMaker) -> str:
    tf, seqio = start()

    def dataset_fn(split: str, shuffle_files: bool, seed: int | None = None) -> Any:
        def generate() -> Iterator[dict[str, list[bytes]]]:
            given = maker.read()
            while group := list(itertools.islice(given, BLOCK)):
                yield {"record": [manifest.canonical(record) for record in group]}

        signature = {"record": tf.TensorSpec([None], tf.string)}
        return tf.data.Dataset.from_generator(generate, output_signature=signature).unbatch()

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
    """Registers a task of documents, chunked into rows; returns its name."""
    return _add_task(name, _maker("documents", source, tokenizer))


def add_instruct_task(name: str, source: Source, *, tokenizer: str | Path) -> str:
    """Registers a task of SFT examples as plain documents, chunked, with all tokens in the loss; returns its name."""
    return _add_task(name, _maker("plain", source, tokenizer))


def add_sft_task(name: str, source: Source, *, tokenizer: str | Path, overlong: Overlong = "drop") -> str:
    """Registers a task of SFT examples in the chat encoding, packed, with the loss on answers; returns its name.

    `overlong` chooses what is done with a dialogue longer than a row (`tokenizer.chat.shorten`).
    """
    return _add_task(name, dataclasses.replace(_maker("sft", source, tokenizer), overlong=overlong))


def _maker(kind: Kind, source: Source, tokenizer: str | Path) -> RowMaker:
    files, reading, split = source.patterns(), source.reading(), source.split()
    if source.passes and kind != "documents":
        raise ConfigError(
            f"Source passes={source.passes} reads the weights of documents, and {list(files)} are examples; leave it"
            " out: the weight of an example scales its loss"
        )
    return RowMaker(kind, files, str(tokenizer), source.max_epochs, reading=reading, split=split, passes=source.passes)


def row_maker(task: Any) -> RowMaker | None:
    """The RowMaker of a SeqIO task; None for a task that was registered in another way."""
    return next((p for p in task.preprocessors if isinstance(p, RowMaker)), None)


def is_own(task: Any) -> bool:
    """Whether a task holds code of the user's own: another preprocessor than our one, or one derived from it."""
    return [type(preprocessor) for preprocessor in task.preprocessors] != [RowMaker]


@contextlib.contextmanager
def _our_errors(task: str) -> Iterator[None]:
    """Raises our own errors again, with the name of the source: TensorFlow wraps what a generator raises."""
    tf, _ = start()

    try:
        yield
    except tf.errors.OpError as error:
        ours = re.search(r"(DataError|ConfigError|BucketError|BucketRefused): (.*)", error.message)
        if not ours:
            raise
        raise again(ours[1], f"source {task}: {ours[2]}") from error


def task_rows(task: Any, seq_len: int) -> Iterator[np.ndarray]:
    """The rows int32 [3, L] of a task in their order, read once through SeqIO."""
    with _our_errors(task.name):
        dataset = task.get_dataset(dict.fromkeys(FEATURES, seq_len), split="train", shuffle=False)
        for block in dataset.batch(BLOCK).as_numpy_iterator():
            for tokens, segments, weights in zip(*(block[name] for name in FEATURES), strict=True):
                yield rows.make_row(tokens, segments, weights)
