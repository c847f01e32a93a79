"""Records of the kinds of files that a source may name, as JSON-like objects with their number in the file.

    *.jsonl, *.jsonl.zst                  one object a line
    *.tfrecord*                           tf.train.Example, one string a feature
    *.array_record*, *.arrayrecord*       tf.train.Example or a JSON object a record
    a folder with dataset_info.json       a TFDS builder on disk; its split "train" (`tfds_builder` makes one)

Numbers count from 1: the line, or the record. JSONL is read from a bucket as it lies there; the others are read by
libraries that know disks only, and copied first (`paths.fetched`).
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tigerjax.errors import DataError
from tigerjax.files import jsonl, paths
from tigerjax.records.tf import start

TFDS_INFO = "dataset_info.json"
SPLIT = "train"
JSON_COLUMN = "json"
"""Of a TFDS dataset that `tfds_builder` wrote: the fields that are no columns of their own, as a JSON object."""


def read(path: str | Path, *, on_bad: jsonl.OnBad | None = None) -> Iterator[tuple[int, jsonl.Record]]:
    """(number from 1, record) of a file or builder folder; DataError with path:number, or `on_bad(error, bytes)`."""
    path = paths.of(path)
    if path.is_dir():
        yield from _tfds(path)
    elif ".tfrecord" in path.name:
        yield from _each(path, _tfrecords(path), on_bad)
    elif ".array_record" in path.name or ".arrayrecord" in path.name:
        yield from _each(path, _array_records(path), on_bad)
    else:
        yield from jsonl.read_jsonl(path, on_bad=on_bad)


def _each(path: Path, given: Iterator[bytes], on_bad: jsonl.OnBad | None) -> Iterator[tuple[int, jsonl.Record]]:
    for number, data in enumerate(given, 1):
        where = f"{path}:{number}"
        try:
            is_json = data[:1] == b"{"
            yield number, jsonl.parse(where, jsonl.decode(where, data)) if is_json else _example(where, data)
        except DataError as error:
            if on_bad is None:
                raise
            on_bad(error, data)


def _example(where: str, data: bytes) -> jsonl.Record:
    """The features of a serialised tf.train.Example: a value that is alone stands for itself, bytes are text."""
    tf, _ = start()
    from google.protobuf.message import DecodeError

    try:
        features = tf.train.Example.FromString(data).features.feature
    except DecodeError as error:
        raise DataError(f"{where}: neither a tf.train.Example nor a JSON object: {error}") from error
    record: jsonl.Record = {}
    for name, feature in sorted(features.items()):
        kind = feature.WhichOneof("kind")
        values: list[Any] = list(getattr(feature, kind).value) if kind else []
        if kind == "bytes_list":
            values = [jsonl.decode(f"{where}, feature {name!r}", value) for value in values]
        record[name] = values[0] if len(values) == 1 else values
    return record


def _tfrecords(path: Path) -> Iterator[bytes]:
    tf, _ = start()

    zipped, copy = "GZIP" if path.suffix == ".gz" else "", paths.fetched(path)
    try:
        for data in tf.data.TFRecordDataset(str(copy), compression_type=zipped).as_numpy_iterator():
            yield bytes(data)
    except tf.errors.OpError as error:
        raise DataError(f"{path}: not a whole TFRecord file: {error.message}") from error


def _array_records(path: Path) -> Iterator[bytes]:
    from array_record.python import array_record_module

    copy = paths.fetched(path)
    try:
        reader = array_record_module.ArrayRecordReader(str(copy), "readahead_buffer_size:0,max_parallelism:0")
        with contextlib.closing(reader):
            for i in range(reader.num_records()):
                yield reader.read([i])[0]
    except (ValueError, RuntimeError, IndexError) as error:
        raise DataError(f"{path}: not a whole ArrayRecord file: {error}") from error


def _tfds(folder: Path) -> Iterator[tuple[int, jsonl.Record]]:
    start()
    if not (folder / TFDS_INFO).is_file():
        raise DataError(f"{folder}: a folder without {TFDS_INFO}; name files, or the version folder of a TFDS builder")
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(paths.fetched(folder)))
    if SPLIT not in builder.info.splits:
        raise DataError(f"{folder}: has the splits {sorted(builder.info.splits)}, but {SPLIT!r} is read")
    for number, record in enumerate(tfds.as_numpy(builder.as_dataset(split=SPLIT, shuffle_files=False)), 1):
        found = {name: _plain(f"{folder}:{number}", value) for name, value in record.items()}
        others = found.pop(JSON_COLUMN, None)
        yield number, found | (jsonl.parse(f"{folder}:{number}", others) if others else {})


def _plain(where: str, value: Any) -> Any:
    if isinstance(value, bytes):
        return jsonl.decode(where, value)
    if isinstance(value, dict):  # a Sequence of features comes as one dict of lists
        columns = {name: _plain(where, column) for name, column in value.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if hasattr(value, "tolist"):
        value = value.tolist()
        return [_plain(where, v) for v in value] if isinstance(value, list) else _plain(where, value)
    return value
