"""Encodes the blocks of a source (`block_rows`) on Apache Beam, with SeqIO's caching.

The blocks are the shards of a SeqIO data source. SeqIO's `PreprocessTask` reads and tokenises them wherever Beam runs,
and tells the shard and the place of each example. SeqIO would then write the examples in any order. But order matters
here. So the examples are grouped by shard, sorted, and written to a file per shard in the work folder, which lies on a
shared file system.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax import records
from tigerjax.data import block_rows
from tigerjax.data.tasks import RowMaker
from tigerjax.errors import ConfigError
from tigerjax.records.tf import start
from tigerjax.stages.runner import Runner
from tigerjax.stages.words import split_runner
from tigerjax.tokenizer.load import Tokenizer

SPLIT = "train"
NAME = "tigerjax_blocks"


def _encode(maker: RowMaker, length: int, dataset: Any) -> Any:
    """The preprocessor whose results SeqIO caches: it makes ids of records."""
    tf, _ = start()

    def generate() -> Iterator[dict[str, Any]]:
        tok = Tokenizer(Path(maker.tokenizer))
        for group in dataset.as_numpy_iterator():
            yield block_rows.encoded(maker, length, tok, group | {"error": group["error"].decode()})

    vector = {"ids": tf.int32, "weights": tf.float32, "sizes": tf.int64}
    signature = {name: tf.TensorSpec([None], kind) for name, kind in vector.items()}
    signature |= {name: tf.TensorSpec([], tf.string) for name in ("met", "counts", "error")}
    return tf.data.Dataset.from_generator(generate, output_signature=signature)


def _register(maker: RowMaker, blocks: Sequence[records.FileBlock], length: int) -> None:
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
            return tf.data.Dataset.from_generator(lambda: block_rows.groups(maker, block), output_signature=signature)

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


def _save(work: Path, keyed: tuple[int, Iterable[tuple[int, dict[str, Any]]]]) -> None:
    shard, given = keyed
    made = [values for _, values in sorted(given, key=lambda pair: pair[0])]
    block_rows.save(work, shard, [values | {"error": values["error"].decode()} for values in made])


def encode(maker: RowMaker, blocks: Sequence[records.FileBlock], length: int, runner: Runner, work: Path) -> None:
    """Has the blocks encoded on a runner of Beam, for `block_rows.rows`.

    ConfigError where Beam refuses the runner or its options.
    """
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from seqio import beam_utils

    _, seqio = start()
    setup = functools.partial(_register, maker, blocks, length)
    setup()
    name, options = split_runner(runner.name)
    task = seqio.TaskRegistry.get(NAME)
    try:
        with beam.Pipeline(name, options=PipelineOptions(options)) as pipeline:
            read = beam_utils.PreprocessTask(task, SPLIT, setup_fn=setup, add_provenance=True)
            _ = pipeline | read | beam.Map(_keyed) | beam.GroupByKey() | beam.Map(functools.partial(_save, work))
    except ValueError as error:
        raise ConfigError(f"runner {runner.name!r}: {' '.join(str(error).split())}") from error
    finally:
        seqio.TaskRegistry.remove(NAME)
