"""What TensorFlow's libraries write: TFRecord and ArrayRecord files, and folders of TFDS datasets.

Their records are counted from 1. The libraries know disks only, so a file in a bucket is copied first
(`paths.fetched`).
"""

import contextlib
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import jsonl, packed, paths
from tigerjax.records.block import FileBlock
from tigerjax.records.tf import start

TFDS_INFO = "dataset_info.json"
SPLIT = "train"
"""The one split of a TFDS dataset that is read."""
RIEGELI_BLOCK, RIEGELI_HEADER, CHUNK_HEADER = 1 << 16, 24, 40
GROUP_RECORDS = 20
"""A group of an ArrayRecord file may hold so many of the longest records."""
JSON_COLUMN = "json"
"""Of a TFDS dataset that `tfds_builder` wrote: the fields that have no column of their own, as a JSON object."""


def parse_record(where: str, data: bytes) -> jsonl.Record:
    """The record of a TFRecord or ArrayRecord file: a JSON object, or a serialised tf.train.Example."""
    return jsonl.parse(where, jsonl.decode(where, data)) if data[:1] == b"{" else _example(where, data)


def _example(where: str, data: bytes) -> jsonl.Record:
    """The features of a tf.train.Example: a list of one value becomes that value, and bytes become text."""
    tf, _ = start()
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError as error:
        raise DataError(
            f"{where}: neither a tf.train.Example nor a JSON object ({error}); write the file again"
        ) from error
    record: jsonl.Record = {}
    for name, feature in sorted(features.items()):
        kind = feature.WhichOneof("kind")
        values: list[Any] = list(getattr(feature, kind).value) if kind else []
        if kind == "bytes_list":
            values = [jsonl.decode(f"{where}, feature {name!r}", value) for value in values]
        if kind == "float_list" and (wild := [value for value in values if not math.isfinite(value)]):
            raise jsonl.not_finite(f"{where}, feature {name!r}", wild[0])
        record[name] = values[0] if len(values) == 1 else values
    return record


def tfrecords(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, bytes]]:
    """The records of a TFRecord file, which may be compressed by gzip. DataError for a file that is not whole."""
    _refuse_long(block)
    tf, _ = start()

    compression, copy = "GZIP" if packed.ending(block.path) == ".gz" else "", paths.fetched(block.path)
    try:
        records = tf.data.TFRecordDataset(str(copy), compression_type=compression).as_numpy_iterator()
        for number, data in enumerate(records, 1):
            yield number, bytes(data)
    except tf.errors.OpError as error:
        what = re.sub(r"\{\{.*?\}\} | \[Op:.*", "", error.message)  # without the names of TensorFlow's own operations
        raise DataError(f"{block.path}: not a whole TFRecord file: {what}; copy it or write it again") from error


def _refuse_long(block: FileBlock) -> None:
    """DataError for a record whose header in a TFRecord file says that it is too long; nothing of it is read."""
    most = block.reading.max_bytes
    with packed.reading(block.path) as (file, _):
        for number in itertools.count(1):
            header = file.read(12)  # the length and its checksum
            if len(header) < 12:  # what is not whole is named by TensorFlow
                return
            left = int.from_bytes(header[:8], "little") + 4
            if left - 4 > most:
                raise packed.too_long(f"{block.path}:{number}", most)
            if not packed.ending(block.path):
                file.seek(left, os.SEEK_CUR)
                continue
            while left and (piece := file.read(min(left, 1 << 20))):
                left -= len(piece)


def _refuse_long_groups(block: FileBlock) -> None:
    """DataError for a group of records (a chunk of Riegeli, of which ArrayRecord is made) that has more bytes in the
    mean than a record may, or all together more than GROUP_RECORDS of the longest. Nothing of it is unpacked.

    A chunk begins with its size, its number of records and their bytes. Every 64 kB of the file begin with 24 bytes of
    another kind (https://github.com/google/riegeli, doc/riegeli_records_file_format.md).
    """
    most, at, number = block.reading.max_bytes, 0, 1
    with open(paths.fetched(block.path), "rb") as file:
        whole = os.fstat(file.fileno()).st_size
        while True:
            begin = at + (RIEGELI_HEADER if at % RIEGELI_BLOCK == 0 else 0)
            if begin >= whole:  # a damaged size may lead far behind the end
                return
            file.seek(begin)
            head = file.read(min(CHUNK_HEADER, RIEGELI_BLOCK - begin % RIEGELI_BLOCK))
            if len(head) < CHUNK_HEADER:
                file.seek(RIEGELI_HEADER, os.SEEK_CUR)
                head += file.read(CHUNK_HEADER - len(head))
            if len(head) < CHUNK_HEADER:  # what is not whole is named by the library
                return
            size, records, unpacked = (int.from_bytes(head[i : i + 8], "little") for i in (8, 24, 32))
            records >>= 8  # the first byte is the kind of the chunk
            if unpacked > most * min(max(1, records), GROUP_RECORDS):
                raise packed.too_long(f"{block.path}:{number}", most)
            number += records
            at = max(_behind(at, CHUNK_HEADER + size), _possible(at + records))


def _behind(begin: int, size: int) -> int:
    """Where a chunk of Riegeli ends that begins there and has so many bytes."""
    usable = RIEGELI_BLOCK - RIEGELI_HEADER
    return begin + size + (size + (begin + usable - 1) % RIEGELI_BLOCK) // usable * RIEGELI_HEADER


def _possible(at: int) -> int:
    """The first place from `at` on where a chunk of Riegeli may begin."""
    return at + max(0, -at % RIEGELI_BLOCK - (RIEGELI_BLOCK - RIEGELI_HEADER) + 1)


def array_records(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, bytes]]:
    """The records of an ArrayRecord file.

    Raises DataError for a file that is not whole.
    """
    from array_record.python import array_record_module

    _refuse_long_groups(block)
    copy = paths.fetched(block.path)
    try:
        reader = array_record_module.ArrayRecordReader(str(copy), "readahead_buffer_size:0,max_parallelism:0")
        with contextlib.closing(reader):
            for i in range(reader.num_records()):
                data = reader.read([i])[0]
                if len(data) > block.reading.max_bytes:  # others of its group are shorter
                    raise packed.too_long(f"{block.path}:{i + 1}", block.reading.max_bytes)
                yield i + 1, data
    except (ValueError, RuntimeError, IndexError) as error:
        raise DataError(f"{block.path}: not a whole ArrayRecord file: {error}; copy it or write it again") from error


def tfds_rows(block: FileBlock, on_bytes: jsonl.OnBytes | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a TFDS dataset's split "train".

    Raises DataError for a dataset without this split, or one that is not whole.
    """
    tf, _ = start()
    import tensorflow_datasets as tfds

    for name in paths.names(block.path):
        part = dataclasses.replace(block, path=block.path / name)
        if ".tfrecord" in name:
            _refuse_long(part)
        elif ".array_record" in name:
            _refuse_long_groups(part)
    copy = paths.fetched(block.path)
    try:
        builder = tfds.builder_from_directory(str(copy))
        splits = sorted(builder.info.splits)
        rows = tfds.as_numpy(builder.as_dataset(split=SPLIT, shuffle_files=False)) if SPLIT in splits else None
        yield from enumerate(rows or (), 1)
    # TFDS counts the records, and raises OpError when some are missing; of damaged descriptions errors of any type.
    except Exception as error:
        message = error.message.rpartition("}} ")[2] if isinstance(error, tf.errors.OpError) else str(error)
        why = " ".join(message.split())[:200] or type(error).__name__
        raise DataError(f"{block.path}: not a whole TFDS dataset: {why}; copy it or make it again") from error
    if rows is None:
        raise DataError(f"{block.path}: has the splits {splits}, but {SPLIT!r} is read; name the split so")


def parse_tfds(where: str, row: dict[str, Any]) -> jsonl.Record:
    """A row of a TFDS dataset as a record; the fields of its column `json` stand beside the others."""
    record = {name: plain_value(f"{where}, field {name!r}", value) for name, value in row.items()}
    others = record.pop(JSON_COLUMN, None)
    return record | (jsonl.parse(where, others) if others else {})


def plain_value(where: str, value: Any) -> Any:
    """A value of TensorFlow as JSON has it: bytes become text. DataError for bytes that are none, or inf and nan."""
    if isinstance(value, bytes):
        return jsonl.decode(where, value)
    if isinstance(value, dict):  # a Sequence of features comes as one dict of lists
        columns = {name: plain_value(where, column) for name, column in value.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if hasattr(value, "tolist"):
        value = value.tolist()
        return [plain_value(where, v) for v in value] if isinstance(value, list) else plain_value(where, value)
    if isinstance(value, float) and not math.isfinite(value):
        raise jsonl.not_finite(where, value)
    return value


def tfds_folder(name: str) -> Path:
    """The folder of a dataset that is named as TFDS names it, NAME[/CONFIG][:VERSION], below TFDS_DATA_DIR.

    Raises DataError where no such dataset is there.
    """
    start()
    import tensorflow_datasets as tfds

    try:
        # TFDS reads the variable once, when it is imported; passed on here, it may change until the dataset is read.
        builder = tfds.builder(name, data_dir=os.environ.get("TFDS_DATA_DIR"), try_gcs=False)
    except (tfds.core.DatasetNotFoundError, ValueError, AssertionError) as error:
        why = str(error).splitlines()[0]
    else:
        if builder.is_prepared():
            return paths.of(builder.data_path)
        why = f"{builder.data_path} has no {TFDS_INFO}"
    raise DataError(
        f"tfds:{name} is not on disk ({why}); make it with `tigerjax data tfds`, and set TFDS_DATA_DIR to its --out"
    )
