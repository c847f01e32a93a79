"""Duplicates: planted cases on the embedded text, and outputs that do not depend on the input's order."""

import json
import random
import re
from pathlib import Path

import pytest
from datasketch import MinHash

from tigerjax.data import containment, records
from tigerjax.data.containment import Index, Unit, against_sft, cut
from tigerjax.data.dedup import against_sft_files, dedup_files, exact_groups, near_groups, shingle_hashes
from tigerjax.data.grams import key, words

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
NEAR_RECALL, NEAR_FALSE = 0.99, 0.01  # at Jaccard 0.9 and 0.3: the design's figures
NOISY_RECALL = 0.98  # with 2% deleted: the design's figure
FALSE_HITS = 0.001  # of other-domain documents: the design's figure


@pytest.fixture(scope="module")
def corpus():
    return {
        lang: [{**d, "text": d["text"]} for d in records.documents(EMBEDDED / f"corpus_{lang}.jsonl")]
        for lang in ("en", "zh")
    }


def vocabulary(rng, n=4000):
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(n)]


def pair_of_jaccard(rng, vocab, jaccard, length=400):
    """Two word texts whose 5-word shingles have about this Jaccard similarity: one half of a text is exchanged."""
    shared = round(2 * length * jaccard / (1 + jaccard))
    common = rng.choices(vocab, k=shared)
    return tuple(" ".join(common + rng.choices(vocab, k=length - shared)) for _ in range(2))


@pytest.mark.parametrize(("jaccard", "low", "high"), [(0.9, NEAR_RECALL, 1.0), (0.3, 0.0, NEAR_FALSE)])
def test_planted_near_duplicates_are_found_and_distant_pairs_are_not(jaccard, low, high):
    rng = random.Random(7)
    vocab = vocabulary(rng)
    documents, true = [], []
    for i in range(200):
        a, b = pair_of_jaccard(rng, vocab, jaccard)
        documents += [{"id": f"{i}a", "text": a}, {"id": f"{i}b", "text": b}]
        sets = [set(zip(*(words(t)[j:] for j in range(5)), strict=False)) for t in (a, b)]
        true.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert abs(sum(true) / len(true) - jaccard) < 0.02
    found = sum(group == [2 * (group[0] // 2), 2 * (group[0] // 2) + 1] for group in near_groups(documents)) / 200
    assert low <= found <= high


def test_estimated_similarity_agrees_with_datasketch(corpus):
    texts = [d["text"] for d in corpus["en"][:40]]
    texts += [t[: int(len(t) * 0.93)] for t in texts]
    documents = [{"id": str(i), "text": t} for i, t in enumerate(texts)]
    mine = {frozenset(g) for g in near_groups(documents)}
    oracle = []
    for text in texts:
        m = MinHash(num_perm=112)
        for shingle in shingle_hashes(text).tolist():
            m.update(str(shingle).encode())
        oracle.append(m)
    for i in range(40):
        if len(shingle_hashes(texts[i])) < 40 or len(shingle_hashes(texts[i + 40])) < 40:
            continue
        estimate = oracle[i].jaccard(oracle[i + 40])
        if estimate > 0.82:  # far enough above 0.7 that two estimates of 112 draws agree
            assert any({i, i + 40} <= group for group in mine)


def test_exact_duplicates_differ_in_case_width_and_punctuation_only():
    texts = ["Hello, World! 123", "hello world １２３", "hello world 12", "天地。玄黄", "天地玄黄"]
    assert exact_groups([{"text": t} for t in texts]) == [[0, 1], [3, 4]]


def test_the_longest_and_then_the_smallest_id_stays(tmp_path):
    given = [{"id": "b", "text": "One two."}, {"id": "a", "text": "One two!"}, {"id": "c", "text": "one two"}]
    records.write_jsonl(tmp_path / "x.jsonl", given)
    made = dedup_files("exact", [tmp_path / "x.jsonl"], tmp_path / "out")
    assert [r["id"] for _, r in records.read_jsonl(tmp_path / "out" / "x.jsonl")] == ["a"]
    assert made["counts"] == {"in": 3, "out": 1, "dropped": {"exact": 2}}


def test_every_planted_fault_of_the_embedded_text_is_found(tmp_path, corpus):
    planted = json.loads((EMBEDDED / "counts.json").read_text())["planted"]
    files = [EMBEDDED / f"corpus_{lang}.jsonl" for lang in ("en", "zh")]
    dedup_files("near", files, tmp_path / "near")
    clusters = [r["all"] for _, r in records.read_jsonl(tmp_path / "near" / "clusters" / "clusters.jsonl")]
    for lang in ("en", "zh"):
        for kind in ("exact_duplicates", "near_duplicates"):
            for copy, original in planted[lang][kind].items():
                assert any({copy, original} <= set(cluster) for cluster in clusters), (kind, copy)


@pytest.mark.parametrize("kind", ["exact", "near", "sft"])
def test_the_same_bytes_whatever_the_order_of_the_input(tmp_path, corpus, kind):
    outputs = []
    for turn in range(2):
        documents = corpus["en"][:150] + corpus["zh"][:150]
        random.Random(turn).shuffle(documents)
        folder = tmp_path / str(turn)
        folder.mkdir()
        records.write_jsonl(folder / "x.jsonl", documents)
        if kind == "sft":
            made = against_sft_files([folder / "x.jsonl"], [EMBEDDED / "sft.jsonl"], folder / "out")
            assert made["figures"]["hits"]
        else:
            dedup_files(kind, [folder / "x.jsonl"], folder / "out")
        names = sorted(p for p in (folder / "out").rglob("*.jsonl"))
        outputs.append({p.relative_to(folder): p.read_bytes() for p in names})
    assert outputs[0] == outputs[1]


def noisy(text, lang, rng):
    """2% of the characters (zh) or words (en: the unit of its grams) deleted."""
    pieces = list(text) if lang == "zh" else re.findall(r"\S+\s*", text)
    return "".join(p for p in pieces if rng.random() >= 0.02)


@pytest.mark.parametrize("lang", ["zh", "en"])
def test_planted_answers_are_found_verbatim_and_with_noise_and_other_domains_are_left_alone(corpus, lang):
    rng = random.Random(5)
    host_source = "facts"
    answers = [d["text"] for d in corpus[lang] if d["source"] != host_source]
    size = 90 if lang == "zh" else 500  # characters: long answers
    answers = [a[:size] for a in answers if len(key(a[:size])) > 0.75 * size and not a.endswith("near")]
    unique = {key(a)[:40]: a for a in answers}
    units = [Unit(f"u{i}", a) for i, a in enumerate(unique.values())]
    hosts = [d["text"] for d in corpus[lang] if d["source"] == host_source]
    assert len(units) >= 60 and len(hosts) >= 500

    def recall(change):
        planted = [{"id": u.id, "text": f"{hosts[i]}\n{change(u.text)}\n{hosts[i + 1]}"} for i, u in enumerate(units)]
        _, report, _ = against_sft(planted, Index(units), action="report")
        return len({h["doc"] for h in report if h["doc"] == h["sft_id"]}) / len(units)

    assert recall(lambda text: text) == 1.0
    assert recall(lambda text: noisy(text, lang, rng)) >= NOISY_RECALL
    _, report, _ = against_sft([{"id": str(i), "text": t} for i, t in enumerate(hosts)], Index(units), action="report")
    assert len({h["doc"] for h in report}) <= FALSE_HITS * len(hosts)


def test_cut_takes_the_matched_sentences_and_nothing_else():
    answer = (
        "The harbour of the old town was built by monks in the year nine hundred, and burnt down twice since"
        " then by pirates who came from the north."
    )
    before, after = (
        "It rained all day. We stayed at home and read. " * 3,
        " The next day was dry. We walked for hours along the sea. Nobody came.",
    )
    document = {"id": "d", "text": before + answer.upper() + after}
    (got,), report, _ = against_sft([document], Index([Unit("s", answer)]), action="cut")
    assert got["text"] == before.rstrip() + after
    assert report[0] == {"doc": "d", "sft_id": "s", "containment": 1.0, "spans": report[0]["spans"]}
    (start, end) = report[0]["spans"][0]
    assert document["text"][start:end].strip() == answer.upper()
    assert against_sft([got], Index([Unit("s", answer)]), action="cut")[1] == []


@pytest.mark.parametrize(
    ("answer", "text", "hit"),
    [
        ("The capital of Malta is Valletta.", "We flew on. The CAPITAL of Malta is  Valletta! It is small.", True),
        ("马耳他的首都是瓦莱塔。", "我们到了。马耳他的首都是，瓦莱塔，很小。", True),
        ("The capital of Malta is Valletta.", "The capital of Malta was Valletta.", False),
        ("Valletta.", "The capital of Malta is Valletta.", False),  # a word alone is no knowledge
    ],
)
def test_short_units_are_found_by_exact_substring_of_the_key(answer, text, hit):
    _, report, _ = against_sft([{"id": "d", "text": text}], Index([Unit("s", answer)]), action="report")
    assert bool(report) == hit


def test_documents_that_lose_too_much_are_dropped_and_actions_differ():
    answer = "甲乙丙丁戊己庚辛壬癸子丑寅卯辰巳午未申酉戌亥天地玄黄宇宙洪荒日月盈昃辰宿列张。"
    rest = (
        "这里还有许多别的句子，讲的是完全不同的事情，而且一句接着一句，长得足够留下来。"
        "今天的天气很好，我们去公园里散步吧，晚上再回家吃饭。"
    )
    documents = [{"id": "short", "text": answer + "剩下的话。"}, {"id": "long", "text": rest + answer + rest[::-1]}]
    index = [Unit("s", answer)]
    got, report, _ = against_sft(documents, Index(index), action="cut")
    assert got[0] is None and got[1] is not None and answer not in got[1]["text"]
    assert [h["doc"] for h in report] == ["short", "long"]
    assert against_sft(documents, Index(index), action="drop")[0] == [None, None]
    assert against_sft(documents, Index(index), action="report")[0] == documents


def test_grams_of_boilerplate_are_stopped(monkeypatch):
    monkeypatch.setattr(containment, "STOP_MIN", 5)
    licence = " ".join(f"licence{i}" for i in range(40))
    documents = [{"id": str(i), "text": licence + f" page {i}"} for i in range(10)]
    _, report, stopped = against_sft(documents, Index([Unit("s", licence)]), action="cut")
    assert stopped == 33 and report == []


def test_spans_that_overlap_are_cut_once():
    hits = [containment.Hit("a", 1.0, [[0, 3], [3, 6]]), containment.Hit("b", 1.0, [[3, 6]])]
    assert cut("abcdefghi", hits) == "ghi"
