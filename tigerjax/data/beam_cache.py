"""Makes the rows of a source on Apache Beam, with SeqIO's caching, so that many workers share the slow part.

A source's files are cut into blocks (`records.blocks`), which are the shards of a SeqIO data source. SeqIO's
`PreprocessTask` reads and tokenises them wherever Beam runs, and tells the shard and the place of each example. SeqIO
would then write the examples in any order. But the end of one document and the begin of the next share a row, so order
matters. Therefore the examples are grouped by shard, sorted, and written to a file per shard in the work folder, which
lies on a shared file system. One process reads these files in order and cuts rows, about as fast as it could copy
them. The rows are the same as without Beam.
"""

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.data.tasks import BLOCK, Encoded, RowMaker
from tigerjax.errors import BucketError, ConfigError, DataError, again
from tigerjax.files import jsonl, manifest, paths
from tigerjax.records.tf import start
from tigerjax.stages import parts
from tigerjax.stages.words import split_runner

SPLIT = "train"
NAME = "tigerjax_blocks"


def _groups(maker: RowMaker, block: records.Block) -> Iterator[dict[str, Any]]:
    """The validated records of a block, BLOCK at a time, as JSON {where, id, record}. An error is the last value."""
    group: list[bytes] = []
    error = ""
    changed: dict[str, int] = {}
    shaped: Callable[[records.Record, str], records.Record] = records.as_document
    if maker.kind != "documents":
        shaped = functools.partial(records.as_sft, counts=changed)
    try:
        with paths.bucket_errors():
            for number, record, _ in records.read_block(block):
                where = f"{block.path}:{number}"
                records.refuse_denied(where, record)
                own = {"where": where, "id": records.identity(where, record), "record": shaped(record, where)}
                group.append(manifest.canonical(own))
                if len(group) == BLOCK:
                    yield {"records": group, "changed": manifest.canonical(changed), "error": ""}
                    group = []
                    changed.clear()
    except (DataError, BucketError) as raised:
        error = f"{type(raised).__name__}: {raised}"
    if group or error:
        yield {"records": group, "changed": manifest.canonical(changed), "error": error}


def _encode(maker: RowMaker, length: int, dataset: Any) -> Any:
    """The preprocessor whose results SeqIO caches: it makes ids of records."""
    from tigerjax.tokenizer.load import Tokenizer

    tf, _ = start()

    def generate() -> Iterator[dict[str, Any]]:
        tok = Tokenizer(Path(maker.tokenizer))
        for group in dataset.as_numpy_iterator():
            given = [json.loads(record) for record in group["records"]]
            maker.counts.clear()
            encoded = list(maker.encode((g["record"] for g in given), length, tok))
            yield {
                "ids": np.array([i for ids, _ in encoded for i in ids], np.int32),
                "weights": np.array([w for _, weights in encoded for w in weights], np.float32),
                "sizes": np.array([len(ids) for ids, _ in encoded], np.int64),
                "met": manifest.canonical([[g["where"], *g["id"]] for g in given]),
                "counts": manifest.canonical(maker.counts | json.loads(group["changed"])),
                "error": group["error"],
            }

    vector = {"ids": tf.int32, "weights": tf.float32, "sizes": tf.int64}
    signature = {name: tf.TensorSpec([None], kind) for name, kind in vector.items()}
    signature |= {name: tf.TensorSpec([], tf.string) for name in ("met", "counts", "error")}
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def _register(maker: RowMaker, blocks: list[records.Block], length: int) -> None:
    """Registers the SeqIO task of a source's blocks, in this process or in a worker of Beam."""
    tf, _ = start()
    import seqio

    class Blocks(seqio.DataSource):
        """The blocks as shards."""

        def __init__(self) -> None:
            super().__init__(splits=(SPLIT,), caching_permitted=True)

        @property
        def supports_arbitrary_sharding(self) -> bool:
            return False

        def list_shards(self, split: str) -> list[str]:
            return [f"{block.path}:{block.first}" for block in blocks]

        def get_dataset(self, split: str, shuffle: bool = True, seed: Any = None, shard_info: Any = None) -> Any:
            block = blocks[shard_info.index]
            one = tf.TensorSpec([], tf.string)
            signature = {"records": tf.TensorSpec([None], tf.string), "changed": one, "error": one}
            return tf.data.Dataset.from_generator(lambda: _groups(maker, block), output_signature=signature)

    seqio.TaskRegistry.remove(NAME)
    seqio.TaskRegistry.add(
        NAME,
        source=Blocks(),
        preprocessors=[functools.partial(_encode, maker, length), seqio.CacheDatasetPlaceholder()],
        output_features={"ids": seqio.Feature(seqio.PassThroughVocabulary(size=0), add_eos=False, dtype=tf.int32)},
    )


def _keyed(example: dict[str, Any]) -> tuple[int, tuple[int, dict[str, Any]]]:
    """(shard, (place in the shard, values)) of an example; SeqIO has added where it comes from."""
    from seqio import beam_utils

    values = {n: example[n].numpy() for n in ("ids", "weights", "sizes", "met", "counts", "error")}
    shard, place = (beam_utils.SOURCE_SHARD_ID_PROVENANCE_KEY, beam_utils.ID_WITHIN_SHARD_PROVENANCE_KEY)
    return int(example[shard]), (int(example[place]), values)


def _write(work: Path, keyed: tuple[int, Iterable[tuple[int, dict[str, Any]]]]) -> None:
    shard, given = keyed
    groups = [values for _, values in sorted(given, key=lambda pair: pair[0])]
    arrays = {name: np.concatenate([g[name] for g in groups]) for name in ("ids", "weights", "sizes")}
    about = [[json.loads(g["met"]), json.loads(g["counts"]), g["error"].decode()] for g in groups]
    manifest.write_json(work / f"shard-{shard}.json", about)
    parts.save_array(work / f"shard-{shard}.npz", **arrays)


def _run(maker: RowMaker, blocks: list[records.Block], length: int, runner: str, work: Path) -> None:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from seqio import beam_utils

    _, seqio = start()
    setup = functools.partial(_register, maker, blocks, length)
    setup()
    name, options = split_runner(runner)
    task = seqio.TaskRegistry.get(NAME)
    try:
        with beam.Pipeline(name, options=PipelineOptions(options)) as pipeline:
            read = beam_utils.PreprocessTask(task, SPLIT, setup_fn=setup, add_provenance=True)
            _ = pipeline | read | beam.Map(_keyed) | beam.GroupByKey() | beam.Map(functools.partial(_write, work))
    except ValueError as error:
        raise ConfigError(f"runner {runner!r}: {' '.join(str(error).split())}") from error
    finally:
        seqio.TaskRegistry.remove(NAME)


def _read(maker: RowMaker, shards: int, work: Path) -> Iterator[Encoded]:
    """What the workers encoded, in order.

    Adds their counts to the maker's, raises their errors, and refuses an id that two records have.
    """
    seen = records.Seen()
    for shard in range(shards):
        if not (work / f"shard-{shard}.npz").is_file():
            continue  # a block without a record
        for met, counts, error in json.loads((work / f"shard-{shard}.json").read_text(encoding="utf-8")):
            for where, identity, made in met:
                seen.take(where, records.Identity(identity, made))
            for what, more in counts.items():
                maker.counts[what] = maker.counts.get(what, 0) + more
            if error:
                kind, _, message = error.partition(": ")
                raise again(kind, message)
        with np.load(work / f"shard-{shard}.npz", allow_pickle=False) as file:
            ids, weights, sizes = file["ids"], file["weights"].astype(float), file["sizes"]
        ends = np.cumsum(sizes)
        for start_at, end in zip((ends - sizes).tolist(), ends.tolist(), strict=True):
            yield ids[start_at:end].tolist(), weights[start_at:end].tolist() if maker.kind == "sft" else ()
    maker.counts.update(seen.counts)


def rows(maker: RowMaker, paths: Sequence[Path], length: int, runner: str, work: Path) -> Iterator[np.ndarray]:
    """The rows int32 [3, length] of a source's files, made on Beam: those of `maker.make(maker.read(), length)`.

    `runner` is a Beam runner with its options. `work` is the path of a new folder that all of its workers can read.
    """
    from tigerjax.tokenizer.load import Tokenizer

    if maker.split.share:  # by ids, which are whole only where all files are read in order
        raise ConfigError("the source holds records out, which Beam's workers do not do; make its rows with local")
    blocks = records.blocks(paths)
    work.mkdir()
    maker.counts.clear()
    _run(maker, blocks, length, runner, work)
    met = {block.path for n, block in enumerate(blocks) if (work / f"shard-{n}.npz").is_file()}
    for path in paths:
        jsonl.refuse_empty(path, path in met)
    maker.counts.clear()
    yield from maker.rows(_read(maker, len(blocks), work), length, Tokenizer(Path(maker.tokenizer)))
