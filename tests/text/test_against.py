"""What the instruction data teaches is found in documents by containment: planted answers, cuts, boilerplate."""

import random
import re

import numpy as np
import pytest

from tigerjax.errors import DataError
from tigerjax.files import jsonl
from tigerjax.text import containment, unit_search
from tigerjax.text.dedup import against_sft_files
from tigerjax.text.grams import key

NOISY_RECALL = 0.98  # with 2% deleted: the design's figure
FALSE_HITS = 0.001  # of other-domain documents: the design's figure


def report(documents, answers, folder, action="report"):
    """(documents by id, hits, manifest) of `dedup against-sft`; answers {id: text}."""
    turns = {i: [{"role": "user", "content": "q"}, {"role": "assistant", "content": a}] for i, a in answers.items()}
    jsonl.write_jsonl(folder / "docs.jsonl", documents)
    jsonl.write_jsonl(folder / "sft.jsonl", ({"id": i, "messages": t} for i, t in turns.items()))
    made = against_sft_files([folder / "docs.jsonl"], [folder / "sft.jsonl"], folder / action, action=action)
    left = {r["id"]: r["text"] for _, r in jsonl.read_jsonl(folder / action / "docs.jsonl")}
    return left, [hit for _, hit in jsonl.read_jsonl(folder / action / "hits" / "hits.jsonl")], made


def noisy(text, lang, rng):
    """2% of the characters (zh) or words (en: the unit of its grams) deleted."""
    pieces = list(text) if lang == "zh" else re.findall(r"\S+\s*", text)
    return "".join(p for p in pieces if rng.random() >= 0.02)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_planted_answers_are_found_verbatim_and_with_noise_and_other_domains_are_left_alone(tmp_path, corpus, lang):
    rng = random.Random(5)
    host_source = "facts"
    answers = [d["text"] for d in corpus[lang] if d["source"] != host_source]
    size = 90 if lang == "zh" else 500  # characters: long answers
    answers = [a[:size] for a in answers if len(key(a[:size])) > 0.75 * size and not a.endswith("near")]
    unique = {key(a)[:40]: a for a in answers}
    units = {f"u{i}": a for i, a in enumerate(unique.values())}
    hosts = [d["text"] for d in corpus[lang] if d["source"] == host_source]
    assert len(units) >= 60 and len(hosts) >= 500

    def recall(name, change):
        planted = [
            {"id": u, "text": f"{hosts[i]}\n{change(a)}\n{hosts[i + 1]}"} for i, (u, a) in enumerate(units.items())
        ]
        (tmp_path / name).mkdir()
        _, hits, _ = report(planted, units, tmp_path / name)
        return len({h["doc"] for h in hits if h["doc"] == h["sft_id"]}) / len(units)

    assert recall("verbatim", lambda text: text) == 1.0
    assert recall("noisy", lambda text: noisy(text, lang, rng)) >= NOISY_RECALL
    _, hits, _ = report([{"id": str(i), "text": t} for i, t in enumerate(hosts)], units, tmp_path)
    assert len({h["doc"] for h in hits}) <= FALSE_HITS * len(hosts)


def test_cut_takes_the_matched_sentences_and_nothing_else(tmp_path):
    answer = (
        "The harbour of the old town was built by monks in the year nine hundred, and burnt down twice since"
        " then by pirates who came from the north."
    )
    before, after = (
        "It rained all day. We stayed at home and read. " * 3,
        " The next day was dry. We walked for hours along the sea. Nobody came.",
    )
    document = {"id": "d", "text": before + answer.upper() + after}
    left, hits, _ = report([document], {"s": answer}, tmp_path, "cut")
    assert left == {"d": before.rstrip() + after}
    assert hits == [{"doc": "d", "sft_id": "s", "examples": 1, "containment": 1.0, "spans": hits[0]["spans"]}]
    (start, end) = hits[0]["spans"][0]
    assert document["text"][start:end].strip() == answer.upper()
    (tmp_path / "again").mkdir()
    assert report([{"id": "d", "text": left["d"]}], {"s": answer}, tmp_path / "again", "cut")[1] == []


@pytest.mark.parametrize("place", ["alone", "among examples", "a line of text"])
def test_a_document_is_no_instruction_data_and_is_refused_by_its_place(tmp_path, place):
    document, at = {"id": "d", "text": "A text of nobody's question."}, f"sft.jsonl:{1 + (place == 'among examples')}"
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "An answer of some length."}]
    jsonl.write_jsonl(tmp_path / "docs.jsonl", [document])
    given = [document] if place == "alone" else [{"id": "e", "messages": turns}, document]
    jsonl.write_jsonl(tmp_path / "sft.jsonl", given)
    path = tmp_path / "sft.jsonl"
    if place == "a line of text":
        path, at = tmp_path / "sft.txt", "sft.txt:2"
        path.write_text("\nA line without a question.\n")
    message = rf"{at}: id '.*': needs 'messages', .*; has \['id', 'text'\], so it is a document"
    with pytest.raises(DataError, match=message):
        against_sft_files([tmp_path / "docs.jsonl"], [path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("answer", "text", "hit"),
    [
        ("The capital of Malta is Valletta.", "We flew on. The CAPITAL of Malta is  Valletta! It is small.", True),
        ("马耳他的首都是瓦莱塔。", "我们到了。马耳他的首都是，瓦莱塔，很小。", True),
        ("The capital of Malta is Valletta.", "The capital of Malta was Valletta.", False),
        ("Valletta.", "The capital of Malta is Valletta.", False),  # a word alone is no knowledge
    ],
)
def test_short_units_are_found_by_exact_substring_of_the_key(tmp_path, answer, text, hit):
    _, hits, _ = report([{"id": "d", "text": text}], {"s": answer}, tmp_path)
    assert bool(hits) == hit


def test_documents_that_lose_too_much_are_dropped_and_actions_differ(tmp_path):
    answer = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地玄黄宇宙洪荒日月盈昃辰宿列张。"
    rest = (
        "这里还有许多别的句子，讲的是完全不同的事情，而且一句接着一句，长得足够留下来。"
        "今天的天气很好，我们去公园里散步吧，晚上再回家吃饭。"
    )
    documents = [{"id": "long", "text": rest + answer + rest[::-1]}, {"id": "short", "text": answer + "剩下的话。"}]
    left, hits, made = report(documents, {"s": answer}, tmp_path, "cut")
    assert list(left) == ["long"] and answer not in left["long"]
    assert [h["doc"] for h in hits] == ["long", "short"]
    assert made["counts"] == {"in": 2, "out": 1, "dropped": {"against_sft": 1}}
    assert report(documents, {"s": answer}, tmp_path, "drop")[0] == {}
    assert report(documents, {"s": answer}, tmp_path, "report")[0] == {d["id"]: d["text"] for d in documents}


def test_grams_of_boilerplate_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(unit_search, "STOP_MIN", 5)
    licence = " ".join(f"licence{i}" for i in range(40))
    documents = [{"id": str(i), "text": licence + f" page {i}"} for i in range(10)]
    _, hits, made = report(documents, {"s": licence}, tmp_path, "cut")
    text = key(licence)
    assert made["figures"]["stop_grams"] == len({text[i : i + 12] for i in range(len(text) - 11)}) and hits == []


def test_spans_that_overlap_are_cut_once():
    assert containment.without("abcdefghi", [[0, 3], [3, 6], [3, 6]]) == "ghi"


def test_the_filter_never_loses_a_gram_and_lets_few_strangers_pass():
    rng = np.random.default_rng(0)
    grams_in, strangers = (rng.integers(0, 2**64, 20_000, np.uint64) for _ in range(2))
    known = containment.BloomFilter.sized(len(grams_in))
    known.add(grams_in[:9_000])
    known.add(grams_in[8_000:])
    assert known.may_hold(grams_in).all()
    assert known.may_hold(strangers).mean() < 1 / containment.BloomFilter.BITS_A_GRAM
