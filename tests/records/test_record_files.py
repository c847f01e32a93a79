"""The same records from JSONL, TFRecord and ArrayRecord files, and from a TFDS dataset."""

import json
from pathlib import Path

import pytest

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl


def test_every_kind_of_file_gives_the_same_records(tmp_path):
    import tensorflow as tf
    from array_record.python import array_record_module

    given = [{"id": f"d{i}", "text": f"文章 {i} with words", "source": "s", "lang": "zh"} for i in range(5)]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)

    def example(record):
        features = {k: tf.train.Feature(bytes_list=tf.train.BytesList(value=[v.encode()])) for k, v in record.items()}
        return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()

    with tf.io.TFRecordWriter(str(tmp_path / "x.tfrecord-00000-of-00001")) as writer:
        for record in given:
            writer.write(example(record))
    for name, made in (("x.array_record", example), ("y.array_record", lambda r: json.dumps(r).encode())):
        writer = array_record_module.ArrayRecordWriter(str(tmp_path / name), "group_size:1")
        for record in given:
            writer.write(made(record))
        writer.close()
    for name in ("x.jsonl", "x.tfrecord-*", "x.array_record", "y.array_record"):
        assert list(records.documents(tmp_path / name)) == given, name
    whole = (tmp_path / "x.tfrecord-00000-of-00001").read_bytes()
    (tmp_path / "cut.tfrecord").write_bytes(whole[:-5])
    with pytest.raises(DataError, match=r"cut\.tfrecord: not a whole TFRecord file"):
        list(records.documents(tmp_path / "cut.tfrecord"))
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder: a folder without dataset_info\.json"):
        list(records.documents(tmp_path / "folder"))


def test_a_tfds_builder_on_disk_is_a_source(tmp_path):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    texts = [f"text {i}" for i in range(4)]
    builder = tfds.dataset_builders.store_as_tfds_dataset(
        name="tiny_texts",
        version="1.0.0",
        features=tfds.features.FeaturesDict({"id": tfds.features.Text(), "text": tfds.features.Text()}),
        split_datasets={"train": tf.data.Dataset.from_tensor_slices({"id": list("0123"), "text": texts})},
        data_dir=str(tmp_path),
        disable_shuffling=True,
    )
    assert [d["text"] for d in records.documents(Path(builder.data_path))] == texts
