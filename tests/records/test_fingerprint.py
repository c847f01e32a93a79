"""Rows of a SeqIO task of the user's own are made again when its code changed, or a value or a file that it uses."""

import functools
import sys

import numpy as np
import pytest

from tigerjax.data import mixture, tasks
from tigerjax.data.caching import Caching
from tigerjax.files import manifest
from tigerjax.records import fingerprint
from tigerjax.records.seqio_tasks import import_modules
from tigerjax.records.tf import start

L = 16
MODULE = """
import functools
import seqio
import tensorflow as tf
import numbers_of_mine

TEXT = "in.txt"
FACTOR = 1
FEATURES = {
    name: seqio.ContinuousFeature(dtype=dtype)
    for name, dtype in {"tokens": tf.int32, "segment_ids": tf.int32, "weights": tf.float32}.items()
}


def numbers(split, shuffle_files, seed=None):
    given = [int(word) * FACTOR + numbers_of_mine.MORE for word in open(TEXT).read().split()]
    rows = tf.ones([len(given), 16], tf.int32)
    return tf.data.Dataset.from_tensor_slices(
        {"tokens": rows * tf.constant(given)[:, None], "segment_ids": rows, "weights": tf.cast(rows, tf.float32)}
    )


def added(dataset, more):
    return dataset.map(lambda x: x | {"tokens": x["tokens"] + more})


seqio.TaskRegistry.remove("mine")
seqio.TaskRegistry.add(
    "mine",
    source=seqio.FunctionDataSource(numbers, splits=("train",)),
    preprocessors=[functools.partial(added, more=0)],
    output_features=FEATURES,
)
"""
CHANGES = {
    "the code of a function": ("module_of_mine.py", "int(word) * FACTOR", "int(word) * FACTOR * 3"),
    "a value of the module": ("module_of_mine.py", "FACTOR = 1", "FACTOR = 2"),
    "an argument of a preprocessor": ("module_of_mine.py", "more=0", "more=5"),
    "a module that is imported": ("numbers_of_mine.py", "MORE = 0", "MORE = 7"),
    "a file that is read": ("in.txt", "1 2", "3 4"),
}


def tokens(work, folder):
    """The first token of each row that is cached, as a new process would find it."""
    for name in ("module_of_mine", "numbers_of_mine"):
        sys.modules.pop(name, None)
    import_modules(["module_of_mine"], "data.modules")
    mixture.add_mixture("of_mine", {"mine": 1.0})
    (place,) = mixture.cache(
        "of_mine", Caching(tokenizer=work / "tokenizer", cache_dir=folder / "cache", seq_len=L)
    ).values()
    source = mixture.Loader({"mine": place}, {"mine": 1.0}, 1, L, 0).sources[0]
    return source.read(range(source.rows))[:, 0, 0].tolist(), manifest.read(place)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # two changes in one second would look the same
    (tmp_path / "module_of_mine.py").write_text(MODULE)
    (tmp_path / "numbers_of_mine.py").write_text("MORE = 0\n")
    (tmp_path / "in.txt").write_text("1 2\n")
    yield tmp_path
    for name in ("module_of_mine", "numbers_of_mine"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("file", "old", "new"), CHANGES.values(), ids=CHANGES)
def test_rows_of_a_task_of_the_users_own_follow_whatever_they_depend_on(work, mine, file, old, new):
    before, first = tokens(work, mine)
    assert before == [1, 2] and tokens(work, mine) == (before, first)  # nothing changed: not made again
    text = (mine / file).read_text()
    assert old in text
    (mine / file).write_text(text.replace(old, new))
    after, second = tokens(work, mine)
    assert after != before and second["started"] >= first["started"]


def test_rows_whose_files_nobody_names_are_made_again_with_a_line_that_says_so(work, mine, capsys):
    file, named = mine / "module_of_mine.py", "\nseqio.TaskRegistry.remove"
    text = MODULE.replace('TEXT = "in.txt"\n', "").replace("open(TEXT)", "open('in' + chr(46) + 'txt')")
    file.write_text(text)
    assert tokens(work, mine)[0] == [1, 2]
    (mine / "in.txt").write_text("5 6\n")
    assert tokens(work, mine)[0] == [5, 6]
    assert "source mine: nothing says which files this SeqIO task reads" in capsys.readouterr().err
    file.write_text(text.replace(named, f"\nnumbers.inputs = ['in.txt']{named}"))
    _, first = tokens(work, mine)
    assert [place["path"] for place in first["inputs"]] == ["in.txt"]
    assert tokens(work, mine)[1] == first and "nothing says which" not in capsys.readouterr().err


def test_the_files_of_seqios_own_sources_are_inputs(tmp_path):
    _, seqio = start()
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(name)
    source = seqio.TextLineDataSource({"train": str(tmp_path / "*.txt")})
    seqio.TaskRegistry.remove("lines")
    seqio.TaskRegistry.add("lines", source=source, preprocessors=[], output_features={})
    made = fingerprint.of_task(seqio.TaskRegistry.get("lines"))
    assert made.files == [tmp_path / "a.txt", tmp_path / "b.txt"] and made.complete


def test_a_preprocessor_beside_ours_is_code_of_the_users_own(tmp_path, work):
    _, seqio = start()
    maker = tasks.RowMaker("documents", (str(tmp_path / "x.jsonl"),), str(work / "tokenizer"), None)
    for more, own in ([], False), ([functools.partial(np.add, 1)], True):
        seqio.TaskRegistry.remove("both")
        source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, splits=("train",))
        seqio.TaskRegistry.add("both", source=source, preprocessors=[maker, *more], output_features={})
        assert tasks.is_own(seqio.TaskRegistry.get("both")) == own
