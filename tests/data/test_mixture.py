"""Mixtures: registration, caches, and every way in which sources and tokenizers can be wrong."""

import dataclasses
import itertools
import json
import sys

import numpy as np
import pytest

from tigerjax import records
from tigerjax.config import DataConfig
from tigerjax.data import inspection, mixture, rows, tasks
from tigerjax.data.caching import Caching
from tigerjax.data.schedule import order
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, manifest
from tigerjax.pages import draw
from tigerjax.tokenizer.chat import encode_chat
from tigerjax.tokenizer.load import Tokenizer

L = 64
SHARE_TOLERANCE = 0.005  # half a point, the design's figure for a window of 1M tokens; here it is one row in 200


@pytest.fixture(scope="session")
def registered(work):
    examples = mixture.Source(work / "sft" / "sft.jsonl")
    mixture.holistic(
        "holistic_test",
        tokenizer=work / "tokenizer",
        zh={"text": mixture.Source(work / "pretrain" / "corpus_zh.jsonl")},
        en={"text": mixture.Source(work / "pretrain" / "corpus_en.jsonl")},
        instruct=examples,
        instruct_fraction=0.1,
    )
    mixture.sft("sft_test", tokenizer=work / "tokenizer", examples=examples)
    return work


def config(work, name="holistic_test", tokenizer="tokenizer", cache="cache", seq_len=L):
    return DataConfig(
        mixture=name,
        modules=(),
        tokenizer=str(work / tokenizer),
        cache_dir=str(work / cache),
        seq_len=seq_len,
    )


def stats(data):
    return mixture.figures(mixture.open_loader(data, batch_rows=4, seed=0), data.seq_len)


def sources(tmp_path, n=30, **more):
    """A zh, an en and an SFT file of n records each."""
    jsonl.write_jsonl(
        tmp_path / "zh.jsonl", ({"id": f"z{i}", "text": f"第{i}章天地玄黄宇宙洪荒" * 5} for i in range(n))
    )
    jsonl.write_jsonl(tmp_path / "en.jsonl", ({"id": f"e{i}", "text": f"Number {i} is here. " * 9} for i in range(n)))
    turns = [
        [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": "A number."}] for i in range(n)
    ]
    jsonl.write_jsonl(tmp_path / "sft.jsonl", ({"id": f"s{i}", "messages": t} for i, t in enumerate(turns)))
    return {
        "zh": {"z": mixture.Source(tmp_path / "zh.jsonl")},
        "en": {"e": mixture.Source(tmp_path / "en.jsonl")},
        "instruct": mixture.Source(tmp_path / "sft.jsonl", **more),
        "instruct_fraction": 0.1,
    }


def own(tmp_path, work, name):
    return DataConfig(
        mixture=name, modules=(), tokenizer=str(work / "tokenizer"), cache_dir=str(tmp_path / "cache"), seq_len=L
    )


def test_the_holistic_mixture_realises_its_token_shares(registered):
    figures = stats(config(registered))
    wanted = {"en.text": 0.45, "instruct": 0.1, "zh.text": 0.45}
    assert figures["wanted"] == pytest.approx({f"holistic_test.{k}": v for k, v in wanted.items()})
    for name, share in figures["wanted"].items():
        assert abs(figures["realised"][name] - share) < SHARE_TOLERANCE
    assert figures["fill"] == 1.0
    assert figures["tokens"] == figures["rows"] * L


def test_cached_rows_are_the_rows_that_seqio_makes_and_the_tokens_of_the_files(registered):
    loader = mixture.open_loader(config(registered), batch_rows=4, seed=0)
    tok = Tokenizer(registered / "tokenizer")
    documents = [tok.encode(d["text"]) for d in records.documents(registered / "pretrain" / "corpus_zh.jsonl")]
    wanted = np.stack(list(rows.chunk(documents, L, tok.eos)))
    source = next(s for s in loader.sources if s.name == "holistic_test.zh.text")
    np.testing.assert_array_equal(source.read(range(source.rows)), wanted)
    task = next(t for t in mixture.get_mixture("holistic_test").tasks if t.name == source.name)
    np.testing.assert_array_equal(np.stack(list(tasks.task_rows(task, L))), wanted)


def test_instructions_enter_pretraining_as_plain_documents(registered):
    loader = mixture.open_loader(config(registered), batch_rows=4, seed=0)
    tok = Tokenizer(registered / "tokenizer")
    first = next(records.sft_examples(registered / "sft" / "sft.jsonl"))["messages"]
    ids = tok.encode(f"{first[0]['content']}\n{first[1]['content']}")
    row = next(s for s in loader.sources if s.name == "holistic_test.instruct").read([0])[0]
    assert row[0].tolist()[: len(ids) + 1] == [*ids, tok.eos]
    assert rows.row_weights(row).tolist() == [1.0] * L
    assert not {tok.ins, tok.res, tok.pad} & set(row[0].tolist())


def test_seqio_mixes_in_the_order_of_the_loader(registered):
    chosen = mixture.get_mixture("holistic_test")
    dataset = chosen.get_dataset(dict.fromkeys(tasks.FEATURES, L), split="train", shuffle=False, num_epochs=1)
    per_task = {task.name: tasks.task_rows(task, L) for task in chosen.tasks}
    by_loader = order(mixture.open_loader(config(registered), batch_rows=4, seed=0).phases)
    for item, source in itertools.islice(zip(dataset.as_numpy_iterator(), by_loader, strict=False), 60):
        assert item["tokens"].tolist() == next(per_task[source])[0].tolist()


def test_sft_rows_are_packed_chat_examples_with_loss_on_answers_only(registered):
    loader = mixture.open_loader(config(registered, "sft_test"), batch_rows=4, seed=0)
    tok = Tokenizer(registered / "tokenizer")
    examples = list(records.sft_examples(registered / "sft" / "sft.jsonl"))
    wanted = sorted(
        (tuple(ids), tuple(w)) for ids, w in (encode_chat(tok, e["messages"]) for e in examples) if len(ids) <= L
    )
    got = []
    source = loader.sources[0]
    for row in source.read(range(source.rows)):
        for segment in range(1, row[1].max() + 1):
            mine = row[1] == segment
            got.append((tuple(row[0][mine].tolist()), tuple(rows.row_weights(row)[mine].tolist())))
    assert sorted(got) == wanted
    assert source.figures["overlong"] == len(examples) - len(wanted)


def test_characters_a_token_are_those_of_the_examples_that_are_in_rows(registered, tmp_path):
    def example(name, question, answer, **more):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"id": name, "messages": turns, **more}

    kept = [example(f"e{i}", "Name a capital.", f"Paris {i}") for i in range(9)]
    lost = [example("long", "Name all capitals.", "Paris, " * 999), example("weightless", "Why?", "No.", weight=0)]
    jsonl.write_jsonl(tmp_path / "sft.jsonl", [*kept, *lost])
    mixture.sft("lost_test", tokenizer=registered / "tokenizer", examples=mixture.Source(tmp_path / "sft.jsonl"))
    given = dataclasses.replace(config(registered, "lost_test"), cache_dir=str(tmp_path / "cache"))
    figures = stats(given)["sources"]["lost_test.sft"]
    assert (figures["records"], figures["overlong"], figures["weightless"]) == (11, 1, 1)
    assert figures["characters"] == sum(len(m["content"]) for e in kept for m in e["messages"])
    assert figures["chars_per_token"] == figures["characters"] / figures["tokens"]


def test_characters_a_token_of_documents_count_the_tokens_that_filled_no_row_too(registered):
    figures = stats(config(registered, "holistic_test"))["sources"]
    tok = Tokenizer(registered / "tokenizer")
    for name, maker in ((t.name, tasks.row_maker(t)) for t in mixture.get_mixture("holistic_test").tasks):
        if maker.kind == "documents":
            texts = [records.text_of(record) for record in maker.read()]
            tokens = sum(len(tok.encode(text)) + 1 for text in texts)
            assert figures[name]["chars_per_token"] == pytest.approx(sum(map(len, texts)) / tokens)


@pytest.mark.parametrize("overlong", ["truncate_response", "keep_left_turns"])
def test_of_a_shortened_example_only_the_characters_that_stayed_count(registered, overlong):
    tok = Tokenizer(registered / "tokenizer")
    maker = tasks.RowMaker("sft", (), str(registered / "tokenizer"), None, overlong=overlong)
    said = ("user", 3), ("assistant", 3), ("user", 2), ("assistant", 99)
    turns = [{"role": role, "content": "word " * words} for role, words in said]
    (row,) = maker.make([{"id": "a", "messages": turns}], L)
    assert maker.counts["shortened"] == 1
    left = len(tok.decode(row[0][row[1] > 0].tolist()))
    assert maker.counts["characters"] == left < sum(len(turn["content"]) for turn in turns)


def test_unchanged_sources_are_not_made_again_and_changed_ones_are(tmp_path, work):
    given = sources(tmp_path)
    mixture.holistic("again", tokenizer=work / "tokenizer", **given)
    folders = mixture.cache("again", Caching(tokenizer=work / "tokenizer", cache_dir=tmp_path / "cache", seq_len=L))
    before = {name: manifest.read(folder) for name, folder in folders.items()}
    jsonl.write_jsonl(tmp_path / "en.jsonl", ({"id": f"e{i}", "text": "Changed. " * 40} for i in range(30)))
    mixture.cache("again", Caching(tokenizer=work / "tokenizer", cache_dir=tmp_path / "cache", seq_len=L))
    after = {name: manifest.read(folder) for name, folder in folders.items()}
    assert [name for name in before if before[name] != after[name]] == ["again.en.e"]


def test_sft_weights_scale_the_loss_of_their_example(tmp_path, work):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    jsonl.write_jsonl(tmp_path / "x.jsonl", [{"messages": messages, "weight": 0.25}])
    maker = tasks.RowMaker("sft", (str(tmp_path / "x.jsonl"),), str(work / "tokenizer"), None)
    (row,) = maker.make(maker.read(), 32)
    assert set(rows.row_weights(row).tolist()) == {0.0, 0.25}


def test_a_mixture_in_a_short_file_of_ones_own_works(tmp_path, work, monkeypatch):
    sources(tmp_path)
    (tmp_path / "my_mixture.py").write_text(
        "from tigerjax.data.mixture import Source, holistic\n"
        f"holistic('mine', tokenizer={str(work / 'tokenizer')!r}, instruct=Source({str(tmp_path / 's*.jsonl')!r}),\n"
        f"         zh={{'z': Source({str(tmp_path / 'zh.jsonl')!r})}},\n"
        f"         en={{'e': Source({str(tmp_path / 'en.jsonl')!r})}},\n"
        "         instruct_fraction=0.05, zh_share=0.6)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    data = DataConfig(
        mixture="mine",
        modules=("my_mixture",),
        tokenizer=str(work / "tokenizer"),
        cache_dir=str(tmp_path / "cache"),
        seq_len=L,
    )
    loader = mixture.open_loader(data, batch_rows=2, seed=0)
    assert loader.rates == pytest.approx({"mine.en.e": 0.38, "mine.instruct": 0.05, "mine.zh.z": 0.57})
    assert next(loader).tokens_BT.shape == (2, L)
    sys.modules.pop("my_mixture")


def test_any_seqio_task_that_yields_rows_can_be_mixed(tmp_path, work):
    import seqio
    import tensorflow as tf

    def dataset_fn(split, shuffle_files, seed=None):
        ones = tf.ones([3, L], tf.int32)
        return tf.data.Dataset.from_tensor_slices(
            {"tokens": ones * 7, "segment_ids": ones, "weights": tf.cast(ones, tf.float32)}
        )

    dtypes = dict.fromkeys(tasks.FEATURES, tf.int32) | {"weights": tf.float32}
    features = {name: seqio.ContinuousFeature(dtype=dtype) for name, dtype in dtypes.items()}
    seqio.TaskRegistry.remove("custom")
    seqio.TaskRegistry.add(
        "custom",
        source=seqio.FunctionDataSource(dataset_fn, splits=("train",)),
        output_features=features,
        preprocessors=[],
    )
    mixture.add_mixture("custom_mix", {"custom": 1.0})
    loader = mixture.open_loader(own(tmp_path, work, "custom_mix"), batch_rows=3, seed=0)
    assert next(loader).tokens_BT.tolist() == [[7] * L] * 3


def test_rows_of_another_tokenizer_are_refused_before_the_start(tmp_path, work):
    mixture.holistic("hashed", tokenizer=work / "tokenizer", **sources(tmp_path))
    data = own(tmp_path, work, "hashed")
    mixture.open_loader(data, batch_rows=4, seed=0)
    old, new = (Tokenizer(work / t).sha256[:12] for t in ("tokenizer", "base_tokenizer"))
    other = dataclasses.replace(data, tokenizer=str(work / "base_tokenizer"))
    with pytest.raises(DataError, match=f"{old}.*is {new}.*tigerjax data cache"):
        mixture.open_loader(other, batch_rows=4, seed=0)
    with pytest.raises(DataError, match=r"make data\.tokenizer and the mixture agree"):
        mixture.open_loader(dataclasses.replace(other, cache_dir=str(tmp_path / "new")), batch_rows=4, seed=0)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"id": "x", "text": "cut', r"source bad\.zh\.z: .*zh\.jsonl:31: broken JSON"),
        (b'{"id": "x", "text": "\xff"}', r"zh\.jsonl:31: invalid UTF-8"),
        (b'{"id": "z3", "text": "again"}', r"zh\.jsonl:31: id 'z3' occurs a second time; the first is at .*:4"),
        (b'{"id": "x"}', r"zh\.jsonl:31: id 'x': a document needs its text in 'text'"),
    ],
)
def test_a_broken_line_stops_the_cache_with_file_and_line(tmp_path, work, line, says):
    given = sources(tmp_path)
    with open(tmp_path / "zh.jsonl", "ab") as f:
        f.write(line + b"\n")
    mixture.holistic("bad", tokenizer=work / "tokenizer", **given)
    with pytest.raises(DataError, match=says):
        mixture.open_loader(own(tmp_path, work, "bad"), batch_rows=2, seed=0)
    assert not (tmp_path / "cache" / "bad.zh.z").exists()


def test_a_missing_and_an_empty_source_are_refused(tmp_path, work):
    given = sources(tmp_path)
    mixture.holistic("gone", tokenizer=work / "tokenizer", **given)
    (tmp_path / "en.jsonl").write_text("")
    with pytest.raises(DataError, match=r"source gone\.en\.e: .*en\.jsonl: is empty"):
        mixture.open_loader(own(tmp_path, work, "gone"), batch_rows=2, seed=0)
    (tmp_path / "en.jsonl").unlink()
    with pytest.raises(DataError, match=r"source gone\.en\.e: .*en\.jsonl: no such file"):
        mixture.open_loader(own(tmp_path, work, "gone"), batch_rows=2, seed=0)


def test_an_instruction_share_outside_the_published_range_is_told_and_a_large_one_is_refused(tmp_path, capsys):
    given = sources(tmp_path)
    mixture.holistic("f", tokenizer="tok", **given | {"instruct_fraction": 0.15})
    assert "note: mixture f: instruct_fraction=0.15 is outside" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"must be in \[0\.0, 0\.2\]"):
        mixture.holistic("f", tokenizer="tok", **given | {"instruct_fraction": 0.3})
    mixture.holistic("f", tokenizer="tok", **given)
    assert not capsys.readouterr().err


def test_exhaustion_is_found_before_the_start_with_a_table(tmp_path, work):
    mixture.holistic("short", tokenizer=work / "tokenizer", **sources(tmp_path, max_epochs=2))
    data = own(tmp_path, work, "short")
    mixture.open_loader(data, batch_rows=2, seed=0, total_rows=10)
    with pytest.raises(ConfigError) as error:
        mixture.open_loader(data, batch_rows=2, seed=0, total_rows=10_000)
    table = str(error.value).splitlines()
    assert [line.split()[0] for line in table[1:]] == ["source", "short.en.e", "short.instruct", "short.zh.z"]
    assert [line.split()[0] for line in table if "EXHAUSTED" in line] == ["short.instruct"]


def test_unknown_mixtures_and_modules_are_config_errors_with_near_misses(registered):
    with pytest.raises(ConfigError, match=r"'holistic_tset' is not registered.*holistic_test"):
        mixture.open_loader(config(registered, "holistic_tset"), batch_rows=4, seed=0)
    bad = json.loads(json.dumps({"mixture": "x", "tokenizer": "t", "cache_dir": "c", "seq_len": 8}))
    with pytest.raises(ConfigError, match=r"no\.such\.module cannot be imported"):
        mixture.open_loader(DataConfig(modules=("no.such.module",), **bad), batch_rows=4, seed=0)


def test_importing_the_quick_start_registers_its_mixtures_before_any_file_is_there(tmp_path):
    import seqio

    from data_mixtures import quickstart

    quickstart.register(tmp_path / "not_there")
    names = {"quickstart_base", "quickstart_holistic", "quickstart_sft", "quickstart_rejection_sampled"}
    assert names <= set(seqio.MixtureRegistry.names())
    rates = {
        t.name.split(".", 1)[1]: mixture.get_mixture("quickstart_holistic").get_rate(t)
        for t in mixture.get_mixture("quickstart_holistic").tasks
    }
    assert rates == pytest.approx(
        {"zh.facts": 0.38, "zh.books": 0.095, "en.facts": 0.38, "en.books": 0.095, "instruct": 0.05}
    )
    quickstart.register(quickstart.WORK)


def test_stats_and_inspect_take_a_mixture_and_the_page_shows_segments_and_weights(registered, tmp_path, monkeypatch):
    data = mixture.mixture_config("sft_test", (), registered / "cache", L, 1.0)
    assert data.tokenizer == str(registered / "tokenizer")
    figures = inspection.inspect_mixture(data, tmp_path / "page" / "rows.html", rows=3, seed=0)
    assert figures["wanted"] == {"sft_test.sft": 1.0} and figures["rows"] > 3
    shown = (tmp_path / "page" / "rows.html").read_text(encoding="utf-8")
    assert shown.count('class="tokens"') == 3 and 'class="begins"' in shown and "weight 1" in shown
    loader = mixture.open_loader(data, batch_rows=1, seed=0)
    (row,) = inspection.rows_shown(loader, 1, 0)["sft_test.sft"]
    tok = Tokenizer(registered / "tokenizer")
    spans = list(inspection.spans(row, tok))
    assert [i for span in spans for i in span.ids] == row[0].tolist()
    assert [span.weight for span in spans for _ in span.ids] == rows.row_weights(row).tolist()
    one = draw("data/tokens.html", "row", spans=spans)
    assert one.count("in-loss") == sum(span.weight > 0 for span in spans) > 0 and one.count("<span") == len(spans)
    with pytest.raises(ConfigError, match="'sft_tset' is not registered"):
        mixture.mixture_config("sft_tset", (), tmp_path, L, 1.0)
