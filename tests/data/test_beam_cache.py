"""Rows cached by workers are the rows of the files, whatever the blocks; errors are the same."""

import itertools
import json

import numpy as np
import pytest

from tigerjax import records
from tigerjax.config import DataConfig
from tigerjax.data import mixture, row_files, rows
from tigerjax.data.caching import Caching
from tigerjax.data.schedule import order
from tigerjax.data.tasks import row_maker, task_rows
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, manifest
from tigerjax.records import block
from tigerjax.stages import runner
from tigerjax.stages.local import Processes

L = 64


@pytest.fixture
def registered(work, tmp_path, monkeypatch):
    """A mixture of three sources, in blocks of a few documents."""
    monkeypatch.setattr(block, "BLOCK_BYTES", 12_000)
    monkeypatch.setattr(block, "SCAN_BYTES", 2_000)
    texts = list(records.documents(work / "pretrain" / "corpus_zh.jsonl"))
    jsonl.write_jsonl(tmp_path / "a.jsonl", texts[:40])
    jsonl.write_jsonl(tmp_path / "b.jsonl.zst", texts[40:80])
    english = list(records.documents(work / "pretrain" / "corpus_en.jsonl"))
    jsonl.write_jsonl(tmp_path / "en.jsonl", english[:60])
    mixture.holistic(
        "beam_test",
        tokenizer=work / "tokenizer",
        zh={"text": mixture.Source((tmp_path / "a.jsonl", tmp_path / "b.jsonl.zst"))},
        en={"text": mixture.Source(tmp_path / "en.jsonl")},
        instruct=mixture.Source(work / "sft" / "sft.jsonl"),
        instruct_fraction=0.1,
    )
    mixture.sft("beam_sft", tokenizer=work / "tokenizer", examples=mixture.Source(work / "sft" / "sft.jsonl"))
    return work / "tokenizer"


@pytest.fixture
def by_blocks(monkeypatch):
    """A runner of steps, as every one but those of Beam."""
    monkeypatch.setitem(runner.RUNNERS, "by-blocks", Processes)
    return "by-blocks"


@pytest.mark.parametrize("on", ["DirectRunner", "by-blocks"])
@pytest.mark.parametrize("name", ["beam_test", "beam_sft"])
def test_rows_cached_by_workers_are_those_cached_here_byte_for_byte(registered, by_blocks, tmp_path, name, on):
    here = mixture.cache(name, Caching(tokenizer=registered, cache_dir=tmp_path / "here", seq_len=L))
    beam = mixture.cache(name, Caching(tokenizer=registered, cache_dir=tmp_path / "beam", seq_len=L, runner=on))
    for task, folder in here.items():
        assert (folder / row_files.name(0)).read_bytes() == (beam[task] / row_files.name(0)).read_bytes(), task
        mine, theirs = manifest.read(folder), manifest.read(beam[task])
        assert mine["figures"] == theirs["figures"] and mine["outputs"] == theirs["outputs"]
        assert theirs["figures"]["tokenizer_sha256"] and theirs["figures"]["tokens"] > 0


def choosing(work, folder, kind):
    """A mixture whose source chooses among its records, which have ids of their own, shared ones, or none."""
    texts = list(itertools.islice(records.documents(work / "pretrain" / "corpus_zh.jsonl"), 60))
    for name, given in (("a", texts[:30]), ("b", texts[20:50]), ("c", texts[40:60])):
        weighed = ({**d, "weight": (0, 0.4, 1, 2.5)[n % 4]} for n, d in enumerate(given))
        jsonl.write_jsonl(folder / f"{name}.jsonl", ({k: v for k, v in d.items() if k != "id"} for d in weighed)
                          if name == "c" else weighed)  # fmt: skip
    jsonl.write_jsonl(folder / "c.jsonl", ({"text": d["text"]} for d in texts[40:60] * 2))
    jsonl.write_jsonl(folder / "clusters.jsonl", [{"all": [texts[1]["id"], texts[2]["id"], texts[41]["id"]]}])
    files = tuple(folder / f"{name}.jsonl" for name in "abc")
    tokenizer, out = work / "tokenizer", folder / "clusters.jsonl"
    if kind == "passes":
        mixture.pretraining("chosen", tokenizer=tokenizer, sources={"x": mixture.Source(files, passes=3)})
    elif kind == "both":
        source = mixture.Source(files, passes=2, held_out=0.3, clusters=out)
        mixture.pretraining("chosen", tokenizer=tokenizer, sources={"x": source})
    elif kind == "held_out":
        mixture.pretraining("chosen", tokenizer=tokenizer, sources={"x": mixture.Source(files, held_out=0.3)})
    else:
        examples = [json.loads(line) for line in (work / "sft" / "sft.jsonl").read_text().splitlines()][:80]
        for n, example in enumerate(examples):
            example["weight"] = n % 3
        jsonl.write_jsonl(folder / "sft.jsonl", examples)
        source = mixture.Source(folder / "sft.jsonl", held_out=0.4)
        if kind == "sft":
            mixture.sft("chosen", tokenizer=tokenizer, examples=source)
        else:
            text = {"x": mixture.Source(folder / "a.jsonl")}
            shares = {"instruct": source, "instruct_fraction": 0.1}
            mixture.holistic("chosen", tokenizer=tokenizer, zh=text, en=text, **shares)


@pytest.mark.parametrize("on", ["DirectRunner", "by-blocks"])
@pytest.mark.parametrize("kind", ["passes", "held_out", "both", "sft", "plain"])
def test_a_source_chooses_on_workers_as_it_does_here(work, by_blocks, tmp_path, monkeypatch, capsys, kind, on):
    monkeypatch.setattr(block, "BLOCK_BYTES", 12_000)
    monkeypatch.setattr(block, "SCAN_BYTES", 2_000)
    choosing(work, tmp_path, kind)
    how = {"tokenizer": work / "tokenizer", "seq_len": L}
    here = mixture.cache("chosen", Caching(cache_dir=tmp_path / "here", **how))
    far = mixture.cache("chosen", Caching(cache_dir=tmp_path / "far", runner=on, **how))
    for task, folder in here.items():
        mine, theirs = manifest.read(folder), manifest.read(far[task])
        assert mine["figures"] == theirs["figures"] and mine["outputs"] == theirs["outputs"], task
    figures = [manifest.read(folder)["figures"] for folder in here.values()]
    assert any(own.get("held_out") for own in figures) == (kind != "passes")
    assert any(own.get("passes") for own in figures) == (kind in ("passes", "both"))


def test_batches_from_cached_rows_are_those_from_the_raw_files(registered, tmp_path):
    data = DataConfig(
        mixture="beam_test", modules=(), tokenizer=str(registered), cache_dir=str(tmp_path / "cache"), seq_len=L
    )
    loader = mixture.open_loader(data, batch_rows=4, seed=3, runner="DirectRunner")
    raw = {t.name: list(task_rows(t, L)) for t in mixture.get_mixture("beam_test").tasks}
    counts = dict.fromkeys(loader.names, 0)
    by_name, following = {source.name: source for source in loader.sources}, order(loader.phases)
    for _ in range(30):  # the same schedule and permutations, over rows that never saw a cache
        taken = []
        for name in itertools.islice(following, 4):
            source = by_name[name]
            taken.append(raw[source.name][source.index(counts[source.name], 3)])
            counts[source.name] += 1
        for got, wanted in zip(next(loader), rows.make_batch(taken), strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_a_source_is_cut_into_many_blocks_and_none_is_lost(registered, tmp_path):

    (task,) = [t for t in mixture.get_mixture("beam_test").tasks if t.name.endswith("zh.text")]
    found = records.blocks(records.expand(row_maker(task).patterns))
    assert len(found) >= 3 and found[-1].path.suffix == ".zst"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"id": "x", "text": "broken', r"source bad\.zh: .*a\.jsonl:41: broken JSON"),
        ('{"id": "x", "text": " "}', r"source bad\.zh: .*a\.jsonl:41: id 'x': field 'text' is empty"),
        (
            '{"id": "x", "text": "1"}\n{"id": "x", "text": "2"}',
            r"a\.jsonl:42: id 'x' occurs a second time.*a\.jsonl:41",
        ),
        ('{"id": "x", "text": "1", "source": "C4"}', r"a\.jsonl:41: id 'x': source 'C4' is denied"),
    ],
)
def test_bad_records_stop_the_cache_with_file_and_line(registered, by_blocks, tmp_path, line, says):
    with open(tmp_path / "a.jsonl", "a") as file:
        file.write(line + "\n")
    mixture.pretraining("bad", tokenizer=registered, sources={"zh": mixture.Source(tmp_path / "a.jsonl")})
    for on in ("DirectRunner", by_blocks):
        with pytest.raises(DataError, match=says):
            mixture.cache("bad", Caching(tokenizer=registered, cache_dir=tmp_path / "out", seq_len=L, runner=on))
    assert not (tmp_path / "out" / "bad.zh").exists()


def test_an_empty_file_of_a_source_is_refused_by_name_as_it_is_without_beam(registered, by_blocks, tmp_path):
    (tmp_path / "z.jsonl").write_text("\n")
    files = (tmp_path / "a.jsonl", tmp_path / "z.jsonl")
    mixture.pretraining("empty", tokenizer=registered, sources={"zh": mixture.Source(files)})
    for on in ("local", "DirectRunner", by_blocks):
        with pytest.raises(DataError, match=r"source empty\.zh: .*z\.jsonl: is empty"):
            mixture.cache("empty", Caching(tokenizer=registered, cache_dir=tmp_path / "out", seq_len=L, runner=on))


def test_an_unknown_runner_is_refused(registered, tmp_path):
    with pytest.raises(ConfigError, match="NoSuchRunner"):
        mixture.cache(
            "beam_sft", Caching(tokenizer=registered, cache_dir=tmp_path / "out", seq_len=L, runner="NoSuchRunner")
        )


def test_a_task_of_ones_own_among_the_sources_is_made_here_and_a_line_says_so(registered, by_blocks, tmp_path, capsys):
    import seqio
    import tensorflow as tf

    def dataset_fn(split, shuffle_files, seed=None):
        ids = tf.reshape(tf.range(3 * L), [3, L])
        given = {"tokens": ids, "segment_ids": tf.ones_like(ids), "weights": tf.ones([3, L])}
        return tf.data.Dataset.from_tensor_slices(given)

    dtypes = {"tokens": tf.int32, "segment_ids": tf.int32, "weights": tf.float32}
    features = {name: seqio.ContinuousFeature(dtype=dtype) for name, dtype in dtypes.items()}
    seqio.TaskRegistry.remove("of_my_own")
    source = seqio.FunctionDataSource(dataset_fn, splits=("train",))
    seqio.TaskRegistry.add("of_my_own", source=source, output_features=features, preprocessors=[])
    mixture.pretraining("beside", tokenizer=registered, sources={"zh": mixture.Source(tmp_path / "a.jsonl")})
    (other,) = mixture.get_mixture("beside").tasks
    mixture.add_mixture("with_mine", {"of_my_own": 1.0, other.name: 1.0})
    made = {}
    for on in ("local", by_blocks, "DirectRunner"):
        how = Caching(tokenizer=registered, cache_dir=tmp_path / on, seq_len=L, runner=on)
        made[on] = {task: (of / row_files.name(0)).read_bytes() for task, of in mixture.cache("with_mine", how).items()}
        said = capsys.readouterr().err
        assert ("source of_my_own: a SeqIO task of your own" in said) == (on != "local")
    assert len(made["local"]) == 2 and made["local"] == made[by_blocks] == made["DirectRunner"]
