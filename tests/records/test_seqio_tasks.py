"""A SeqIO task of the user's own is an input of every stage, by a file that names it."""

import json
import sys

import pytest
from file_formats import GIVEN, save_tfrecord

from tigerjax import records
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.records import seqio_tasks
from tigerjax.text.clean import clean_files
from tigerjax.text.dedup import dedup_files

MODULE = """
import functools
import seqio
import tensorflow as tf

ids = seqio.ByteVocabulary()
rekey = functools.partial(seqio.preprocessors.rekey, key_map={"targets": "name"})
features = {"targets": seqio.Feature(ids)}


def parse(dataset):
    return dataset.map(lambda line: {"name": tf.strings.join([line, " OF MINE"])})


seqio.TaskRegistry.add(
    "MARK_lines", source=seqio.TextLineDataSource({"train": "FOLDER/lines.txt"}),
    preprocessors=[
        parse, rekey, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.tokenize, seqio.preprocessors.append_eos,
    ],
    output_features=features,
)
example = {"text": tf.io.FixedLenFeature([], tf.string), "id": tf.io.FixedLenFeature([], tf.string)}
seqio.TaskRegistry.add(
    "MARK_examples", source=seqio.TFExampleDataSource({"train": "FOLDER/e.tfrecord"}, example), preprocessors=[],
    output_features=features,
)
pairs = {"inputs": ["What is it?", ""], "targets": ["A tiger.", "It walks."]}
seqio.TaskRegistry.add(
    "MARK_pairs",
    source=seqio.FunctionDataSource(lambda split, shuffle_files: tf.data.Dataset.from_tensor_slices(pairs), ["train"]),
    preprocessors=[seqio.preprocessors.tokenize], output_features=features,
)
seqio.TaskRegistry.add(
    "MARK_broken", source=seqio.TextLineDataSource({"train": "FOLDER/lines.txt"}),
    preprocessors=[lambda dataset: dataset.map(lambda line: {"text": tf.strings.to_number(line)})],
    output_features=features,
)
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Files that a module registers as tasks, and the file of each task. No two tests share a name."""
    mark = f"m{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{mark}.py").write_text(MODULE.replace("FOLDER", str(tmp_path)).replace("MARK", mark))
    (tmp_path / "lines.txt").write_text("\n".join(f"line {n} about the tiger" for n in range(5)))
    from tigerjax.records.tf import start

    tf, seqio = start()
    with tf.io.TFRecordWriter(str(tmp_path / "e.tfrecord")) as writer:
        for record in GIVEN:
            text = {name: [record[name].encode()] for name in ("id", "text")}
            made = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=value)) for name, value in text.items()}
            writer.write(tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString())
    for name in ("lines", "examples", "pairs", "broken"):
        (tmp_path / f"{name}.seqio").write_text(json.dumps({"task": f"{mark}_{name}", "modules": [mark]}))
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop(mark, None)
    for name in ("lines", "examples", "pairs", "broken"):
        seqio.TaskRegistry.remove(f"{mark}_{name}")


def test_stages_read_what_a_task_has_before_it_is_tokenised(folder):
    made = dedup_files("exact", [folder / "lines.seqio"], folder / "exact")
    got = sorted(record["text"] for _, record in jsonl.read_jsonl(folder / "exact" / "lines.jsonl"))
    assert got == [f"line {n} about the tiger OF MINE" for n in range(5)] and made["counts"]["in"] == 5
    clean_files([folder / "examples.seqio"], folder / "clean")
    cleaned = [record for _, record in jsonl.read_jsonl(folder / "clean" / "examples.jsonl")]
    assert [(r["id"], r["text"]) for r in cleaned] == [(r["id"], r["text"]) for r in GIVEN]


def test_questions_and_answers_are_examples(folder):
    first, second = list(records.documents_and_examples(folder / "pairs.seqio"))
    assert [m["content"] for m in first["messages"]] == ["What is it?", "A tiger."]
    assert second["text"] == "It walks." and "inputs" not in second


def test_a_stage_is_done_again_when_a_file_or_the_code_of_the_task_changed(folder):
    def out():
        return dedup_files("exact", [folder / "lines.seqio"], folder / "out")["counts"]["in"]

    assert out() == 5
    made = (folder / "out" / "manifest.json").read_bytes()
    assert out() == 5 and (folder / "out" / "manifest.json").read_bytes() == made
    (folder / "lines.txt").write_text("one line\nanother line")
    assert out() == 2


def test_a_task_that_cannot_be_read_is_one_line(folder):
    def read(**named):
        path = folder / f"wrong{len(list(folder.glob('wrong*')))}.seqio"
        path.write_text(json.dumps(named))
        return list(records.documents(path))

    with pytest.raises(DataError, match=r"broken.seqio: task \w+_broken cannot be read: .*StringToNumber"):
        list(records.documents(folder / "broken.seqio"))
    good = json.loads((folder / "lines.seqio").read_text())
    with pytest.raises(DataError, match=r"has the splits \['train'\], not 'test'"):
        read(**good, split="test")
    with pytest.raises(ConfigError, match="no_such_module cannot be imported"):
        read(task="x", modules=["no_such_module"])
    with pytest.raises(ConfigError, match=r"no SeqIO task 'nothing_like_it'"):
        read(task="nothing_like_it")
    for wrong in ({"task": 3}, {"task": "x", "modules": "m"}, {"task": "x", "moduls": []}):
        with pytest.raises(DataError, match=r'write \{"task": "NAME"'):
            read(**wrong)
    (folder / "no.seqio").write_bytes(b"{")
    with pytest.raises(DataError, match="is no JSON"):
        seqio_tasks.named_task(folder / "no.seqio")


def test_code_runs_only_where_the_file_is_named(folder):
    save_tfrecord(folder / "other.tfrecord")
    with pytest.raises(ConfigError, match="whose code would run"):
        records.expand([str(folder / "*.seqio")])
