"""Held-out sets: which records they get, near duplicates on one side, and the rows and groups made of them."""

import json
from collections import Counter

import numpy as np
import pytest

from tigerjax import records
from tigerjax.config import DataConfig, EvalConfig
from tigerjax.data import held_out, mixture, rows
from tigerjax.data.caching import Caching
from tigerjax.data.split import Split
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.text.dedup import dedup_files
from tigerjax.tokenizer.chat import encode_chat
from tigerjax.tokenizer.load import Tokenizer

L = 32


@pytest.fixture
def place(tmp_path, work, monkeypatch):
    """A folder with a file of 60 documents and one of four SFT examples, of which a mixture `held` is registered."""
    monkeypatch.chdir(tmp_path)
    documents = [
        {"id": f"d{i}", "text": f"Chapter {i} is about stones, rivers and number {i * i}. " * 3, "lang": "en",
         "source": ("books", "news")[i % 2]}
        for i in range(60)
    ]  # fmt: skip
    jsonl.write_jsonl(tmp_path / "text.jsonl", documents)
    jsonl.write_jsonl(tmp_path / "sft.jsonl", [example(i) for i in range(4)])
    register(tmp_path, work)
    return tmp_path


def example(number, answer="A number.", **more):
    turns = [{"role": "user", "content": f"What is {number}?"}, {"role": "assistant", "content": answer}]
    return {"id": f"s{number}", "messages": turns, "task": ("count", "ask")[number % 2]} | more


def register(folder, work, **more):
    mixture.pretraining(
        "held",
        tokenizer=work / "tokenizer",
        sources={"text": mixture.Source(folder / "text.jsonl", **more)},
    )


def data(work):
    return DataConfig(mixture="held", modules=(), tokenizer=str(work / "tokenizer"), cache_dir="rows", seq_len=L)


def opened(work, *sets):
    return {one.name: one for one in held_out.open_sets(data(work), EvalConfig(sets=sets))}


def test_rows_hold_one_group_each_and_every_token_of_its_documents_once(place, work):
    (made,) = opened(work, "text.jsonl").values()
    assert [group for group, _ in made.groups] == [("en", "books", "not given"), ("en", "news", "not given")]
    tok, texts = Tokenizer(work / "tokenizer"), {r["id"]: r for r in records.documents("text.jsonl")}
    first = 0
    for group, count in made.groups:
        held = made.read(range(first, first + count))
        first += count
        tokens = held[:, 0][held[:, 1] > 0].tolist()
        wanted = [r["text"] for r in texts.values() if r["source"] == group.source]
        assert tokens == [i for text in wanted for i in [*tok.opening, *tok.encode(text), tok.eos]]
        assert (rows.row_weights(held) == (held[:, 1] > 0)).all()
        assert (held[:-1, 1] > 0).all() and not held[-1, 1].all()  # padding in the last row only


def test_examples_count_each_answer_token_once_and_those_of_weight_0_never(place, work, capfd):
    doubled = example(4) | {"weight": 2.0}
    none = example(5)
    none["messages"][1]["weight"] = 0
    long = example(6, answer="word " * 60)
    jsonl.write_jsonl(place / "more.jsonl", [doubled, none, long])
    (made,) = opened(work, "sft=sft.jsonl", "sft=more.jsonl").values()
    assert made.name == "sft" and [g.task for g, _ in made.groups] == ["ask", "count"]
    assert (made.figures["records"], made.figures["overlong"], made.figures["weightless"]) == (7, 1, 1)
    tok = Tokenizer(work / "tokenizer")
    wanted = sum(sum(encode_chat(tok, one["messages"])[1]) for one in [*map(example, range(4)), doubled])
    weights = rows.row_weights(made.read(range(made.rows)))
    assert weights.sum() == wanted and set(np.unique(weights)) == {0.0, 1.0}
    said = capfd.readouterr().err
    assert f"held-out set sft: 2 of 7 records count in no figure: 1 are longer than seq_len={L}, 1 have no" in said


def test_one_set_may_hold_documents_and_examples(place, work):
    (made,) = opened(work, "all=text.jsonl", "all=sft.jsonl").values()
    assert made.figures["records"] == 64
    assert {g.task for g, _ in made.groups} == {"not given", "ask", "count"}


def test_names_past_the_most_frequent_stand_together(place, work, monkeypatch):
    monkeypatch.setattr(held_out, "MOST_NAMES", 1)
    jsonl.write_jsonl(
        place / "three.jsonl", [{"text": t, "source": s} for t, s in (("a", "x"), ("b", "y"), ("c", "y"))]
    )
    (made,) = opened(work, "three.jsonl").values()
    assert [g.source for g, _ in made.groups] == ["others", "y"]


def test_rows_are_made_once_and_again_when_a_file_changes(place, work):
    before = opened(work, "sft.jsonl")["sft"]
    again = opened(work, "sft.jsonl")["sft"]
    assert (again.folder / "manifest.json").stat().st_mtime_ns == (before.folder / "manifest.json").stat().st_mtime_ns
    jsonl.write_jsonl(place / "sft.jsonl", [example(9)])
    assert opened(work, "sft.jsonl")["sft"].sha256 != before.sha256


def ids_of(split, ids):
    choose = split.chooser()
    return {identity for identity in ids if choose(identity)}


def test_an_id_keeps_its_side_and_a_larger_share_holds_the_smaller_one():
    ids = [f"record {i}" for i in range(4000)]
    tenth, fifth = ids_of(Split(0.1), ids), ids_of(Split(0.2), ids)
    assert tenth < fifth and tenth == ids_of(Split(0.1), reversed(ids))
    assert len(tenth) / 4000 == pytest.approx(0.1, abs=0.02)  # four standard deviations
    assert ids_of(Split(0.1), ids[:100]) == tenth & set(ids[:100])


def test_equal_records_without_ids_are_on_one_side():
    made = "0123456789abcdef" * 2
    sides = [ids_of(Split(share), [made, records.numbered(made, 2), records.numbered(made, 3)]) for share in (0.1, 0.9)]
    assert all(len(side) in (0, 3) for side in sides)


def test_training_and_validation_divide_the_records_of_a_source(place, work, capfd):
    register(place, work, held_out=0.25)
    mixture.cache("held", Caching(tokenizer=work / "tokenizer", cache_dir="rows", seq_len=L))
    kept = json.loads((place / "rows" / "held.text" / "manifest.json").read_text())["figures"]
    made = opened(work)["held.text"]
    assert kept["held_out"] == made.figures["records"] > 0 and kept["records"] + kept["held_out"] == 60
    assert f"source held.text: {kept['held_out']} of 60 records are held out" in capfd.readouterr().err
    maker = held_out.row_maker(mixture.get_mixture("held").tasks[0])
    sides = [{r["id"] for r in maker.read(held_out=side)} for side in (False, True)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 60


def test_near_duplicates_are_held_out_together(place, work):
    """Of each document a copy with other words at its end, under another id; `data dedup near` finds the pairs."""
    words = "stone river night lamp glass bread cloud horse paper silver garden winter".split()
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(words, 60)) for _ in range(40)]
    pairs = [
        {"id": f"{side}{i}", "text": f"{t} {end}"}
        for i, t in enumerate(texts)
        for side, end in (("a", "."), ("b", "!"))
    ]
    jsonl.write_jsonl(place / "text.jsonl", pairs)
    dedup_files("near", ["text.jsonl"], "dedup")
    register(place, work, held_out=0.3)
    maker = held_out.row_maker(mixture.get_mixture("held").tasks[0])
    alone = Counter(r["id"][1:] for r in maker.read(held_out=True))
    register(place, work, held_out=0.3, clusters="dedup")
    maker = held_out.row_maker(mixture.get_mixture("held").tasks[0])
    together = Counter(r["id"][1:] for r in maker.read(held_out=True))
    assert 1 in alone.values() and set(together.values()) == {2}


def test_clusters_that_share_an_id_are_one(tmp_path):
    jsonl.write_jsonl(tmp_path / "one.jsonl", [{"kept": "b", "all": ["b", "c"]}, {"kept": "x", "all": ["x", "y"]}])
    jsonl.write_jsonl(tmp_path / "two.jsonl", [{"kept": "c", "all": ["c", "d", "e"]}])
    split = Split(0.5, (str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")))
    choose = split.chooser()
    assert choose._first == {"b": "b", "c": "b", "d": "b", "e": "b", "x": "x", "y": "x"}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ('{"kept": "q", "all": ["q", "r"]}\n', "none of its ids, such as 'q', is an id of the source's"),
        ('{"kept": "q"}\n', r"c\.jsonl:1: needs 'all', a list of ids"),
    ],
)
def test_clusters_of_other_records_are_refused(place, work, lines, message):
    (place / "c.jsonl").write_text(lines)
    register(place, work, held_out=0.3, clusters=place / "c.jsonl")
    with pytest.raises(DataError, match=message):
        opened(work)


def test_what_cannot_be_held_out_is_one_line(place, work):
    with pytest.raises(ConfigError, match="clusters say what is held out together, but held_out=0"):
        mixture.Source("x", clusters="dedup")
    with pytest.raises(ConfigError, match=r"Source held_out=1\.0 must be at least 0 and below 1"):
        mixture.Source("x", held_out=1.0)
    register(place, work, held_out=1e-9)
    with pytest.raises(DataError, match=r"held-out set held\.text is empty: held_out=1e-09 takes no record"):
        opened(work)
    register(place, work, held_out=0.5, clusters="nowhere")
    with pytest.raises(DataError, match="nowhere: no such file; name the folder that"):
        opened(work)
    register(place, work, held_out=0.5)
    with pytest.raises(ConfigError, match=r"held\.text is also the name of what that source holds out"):
        opened(work, "held.text=text.jsonl")
    with pytest.raises(DataError, match=r"held-out set nothing: nothing\.jsonl: no such file"):
        opened(work, "nothing.jsonl")
