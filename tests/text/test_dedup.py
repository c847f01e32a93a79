"""Duplicates: planted cases on the embedded text, and outputs that do not depend on the input's order."""

import functools
import json
import random
from pathlib import Path

import numpy as np
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from tigerjax import records
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl
from tigerjax.records import block
from tigerjax.stages.runner import Runner
from tigerjax.text import clusters, containment, dedup, grams, minhash
from tigerjax.text.clean import clean_files
from tigerjax.text.dedup import against_sft_files, dedup_files
from tigerjax.text.grams import key, words

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
NEAR_RECALL, NEAR_FALSE = 0.99, 0.01  # at Jaccard 0.9 and 0.3: the design's figures


def vocabulary(rng, n=4000):
    return ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(n)]


def pair_of_jaccard(rng, vocab, jaccard, length=400):
    """Two word texts whose 5-word shingles have about this Jaccard similarity: one half of a text is exchanged."""
    shared = round(2 * length * jaccard / (1 + jaccard))
    common = rng.choices(vocab, k=shared)
    return tuple(" ".join(common + rng.choices(vocab, k=length - shared)) for _ in range(2))


def near(documents, folder):
    """The clusters of `dedup near`, each a sorted list of ids."""
    jsonl.write_jsonl(folder / "x.jsonl", documents)
    dedup_files("near", [folder / "x.jsonl"], folder / "near")
    return [r["all"] for _, r in jsonl.read_jsonl(folder / "near" / "clusters" / "clusters.jsonl")]


@pytest.mark.parametrize(("jaccard", "low", "high"), [(0.9, NEAR_RECALL, 1.0), (0.3, 0.0, NEAR_FALSE)])
def test_planted_near_duplicates_are_found_and_distant_pairs_are_not(tmp_path, jaccard, low, high):
    rng = random.Random(7)
    vocab = vocabulary(rng)
    documents, true = [], []
    for i in range(200):
        a, b = pair_of_jaccard(rng, vocab, jaccard)
        documents += [{"id": f"{i}a", "text": a}, {"id": f"{i}b", "text": b}]
        sets = [set(zip(*(words(t)[j:] for j in range(5)), strict=False)) for t in (a, b)]
        true.append(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))
    assert abs(sum(true) / len(true) - jaccard) < 0.02
    found = sum(group == [group[0][:-1] + "a", group[0][:-1] + "b"] for group in near(documents, tmp_path)) / 200
    assert low <= found <= high


def shingle_sets(texts):
    hashes, owners = minhash.shingles(texts)
    return hashes, owners, [set(hashes[owners == i].tolist()) for i in range(len(texts))]


def test_estimated_similarity_is_as_good_as_that_of_datasketch(corpus):
    texts = [d["text"] for d in corpus["en"][:60] if len(d["text"]) > 300]
    texts += [t[: int(len(t) * share)] for t, share in zip(texts, np.linspace(0.5, 1, len(texts)), strict=True)]
    hashes, owners, sets = shingle_sets(texts)
    mine, able = minhash.signatures(hashes, owners, len(texts))
    assert able.all()
    half, errors = len(texts) // 2, {"mine": [], "oracle": []}
    for i in range(half):
        true = len(sets[i] & sets[i + half]) / len(sets[i] | sets[i + half])
        theirs = [MinHash(num_perm=minhash.PERMUTATIONS) for _ in range(2)]
        for m, at in zip(theirs, (i, i + half), strict=True):
            m.update_batch([str(shingle).encode() for shingle in sets[at]])
        errors["mine"].append(np.mean(mine[i] == mine[i + half]) - true)
        errors["oracle"].append(theirs[0].jaccard(theirs[1]) - true)
    rms = {name: float(np.sqrt(np.mean(np.square(e)))) for name, e in errors.items()}
    # sqrt(J (1 - J) / 112) is 0.047 at most, at J = 0.5
    assert rms["mine"] < 0.047 and rms["oracle"] < 0.047, rms
    assert abs(np.mean(errors["mine"])) < 0.02


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from("e\u0301ﬁß１Ａ…一二 _İक्"))))
def test_a_batch_of_keys_is_the_key_and_the_words_of_each_text(texts):
    batch = grams.keys(texts)
    units = grams.cut(batch, "words")
    for i, text in enumerate(texts):
        mine = batch.codes[batch.starts[i] : batch.starts[i + 1]]
        assert "".join(map(chr, mine)) == key(text)
        alone = grams.cut(grams.keys([text]), "words").values.tolist()
        hashed = units.values[units.starts[i] : units.starts[i + 1]].tolist()
        assert hashed == alone and len(alone) == len(words(text))
        assert len(set(alone)) == len(set(words(text)))


def test_one_text_long_enough_has_all_its_windows_and_none_runs_into_the_next():
    hashes, texts = grams.windows(grams.cut(grams.keys(["abcdef", "ab", "", "bcdefg"]), "characters"), 5)
    assert texts.tolist() == [0, 0, 3, 3] and hashes[1] == hashes[2] and len(set(hashes.tolist())) == 3


def test_exact_duplicates_differ_in_case_width_and_punctuation_only(tmp_path):
    texts = ["Hello, World! 123", "hello world １２３", "hello world 12", "天地。玄黄", "天地玄黄"]
    jsonl.write_jsonl(tmp_path / "x.jsonl", ({"id": str(i), "text": t} for i, t in enumerate(texts)))
    dedup_files("exact", [tmp_path / "x.jsonl"], tmp_path / "out")
    clusters = [r["all"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "clusters" / "clusters.jsonl")]
    assert clusters == [["0", "1"], ["3", "4"]]


def test_records_of_a_bucket_are_joined_through_others_and_not_beyond():
    vectors = np.zeros((5, 10), np.uint32)
    vectors[1, :3] = 1  # alike to 0 and to 2, which are not alike
    vectors[2, :6] = 1
    vectors[3:] = 7
    graph = dedup.linked(vectors, 0.7)
    assert {frozenset(edge) for edge in graph} == {frozenset(e) for e in [(0, 1), (1, 2), (3, 4)]}


def test_clusters_are_those_of_a_graph_search():
    rng = random.Random(3)
    edges = np.array([[rng.randrange(400) * 7, rng.randrange(400) * 7] for _ in range(260)], np.uint64).T
    named, cluster = clusters.components(edges)
    wanted: list[set[int]] = []
    for a, b in edges.T.tolist():
        touching = [group for group in wanted if group & {a, b}]
        wanted = [group for group in wanted if not group & {a, b}] + [{a, b}.union(*touching)]
    got = {frozenset(named[cluster == c].tolist()) for c in np.unique(cluster)}
    assert got == set(map(frozenset, wanted))


def test_the_best_then_the_longest_and_then_the_smallest_id_stays(tmp_path):
    given = [{"id": "b", "text": "One two."}, {"id": "a", "text": "One two!"}, {"id": "c", "text": "one two"}]
    given += [{"id": "l", "text": "3 4"}, {"id": "m", "text": "3, 4"}]
    given += [{"id": "q", "text": "5 6", "meta": {"quality": 0.5}}, {"id": "p", "text": "5 ... 6"}]
    jsonl.write_jsonl(tmp_path / "x.jsonl", given)
    made = dedup_files("exact", [tmp_path / "x.jsonl"], tmp_path / "out")
    assert [r["id"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "x.jsonl")] == ["a", "m", "q"]
    assert made["counts"] == {"in": 7, "out": 3, "dropped": {"exact": 4}}


def test_every_planted_fault_of_the_embedded_text_is_found(tmp_path, corpus):
    planted = json.loads((EMBEDDED / "counts.json").read_text())["planted"]
    files = [EMBEDDED / f"corpus_{lang}.jsonl" for lang in ("en", "zh")]
    dedup_files("near", files, tmp_path / "near")
    clusters = [r["all"] for _, r in jsonl.read_jsonl(tmp_path / "near" / "clusters" / "clusters.jsonl")]
    for lang in ("en", "zh"):
        for kind in ("exact_duplicates", "near_duplicates"):
            for copy, original in planted[lang][kind].items():
                assert any({copy, original} <= set(cluster) for cluster in clusters), (kind, copy)


def made_bytes(kind, documents, folder, **how):
    """Every output file but the manifest of a stage on two files, by name."""
    folder.mkdir()
    half = len(documents) // 2
    for name, part in (("x.jsonl", documents[:half]), ("y.jsonl.zst", documents[half:])):
        jsonl.write_jsonl(folder / name, part)
    paths = [folder / "x.jsonl", folder / "y.jsonl.zst"]
    if kind == "sft":
        made = against_sft_files(paths, [EMBEDDED / "sft.jsonl"], folder / "out", **how)
        assert made["figures"]["hits"]
    else:
        dedup_files(kind, paths, folder / "out", **how)
    assert not list((folder / "out").glob("work*"))
    outputs = [p for p in (folder / "out").rglob("*.jsonl*")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in outputs}


@pytest.mark.parametrize("kind", ["exact", "near", "sft"])
def test_the_same_bytes_whatever_the_order_blocks_and_shards(tmp_path, corpus, kind, monkeypatch):
    documents = corpus["en"][:120] + corpus["zh"][:120]
    random.Random(5).shuffle(documents)
    first, half = made_bytes(kind, documents, tmp_path / "a"), len(documents) // 2
    mixed = documents[:half][::-1] + sorted(documents[half:], key=lambda d: d["text"])
    monkeypatch.setattr(block, "BLOCK_BYTES", 9_000)
    monkeypatch.setattr(block, "SCAN_BYTES", 1_000)
    monkeypatch.setattr(dedup, "PAIRS", 7)
    monkeypatch.setattr(containment, "EXPANSION", 50)
    assert len(records.blocks([tmp_path / "a" / "x.jsonl"])) > 3
    assert made_bytes(kind, mixed, tmp_path / "b", shards=3) == first


def test_the_same_bytes_from_two_workers(tmp_path, corpus):
    documents = corpus["en"][:40] + corpus["zh"][:40]
    for kind in ("near", "sft"):
        one = made_bytes(kind, documents, tmp_path / f"{kind}1", shards=2)
        assert made_bytes(kind, documents, tmp_path / f"{kind}2", shards=2, runner=Runner(workers=2)) == one


def test_the_same_bytes_from_apache_beam(tmp_path, corpus):
    pytest.importorskip("apache_beam")
    documents = corpus["en"][:40] + corpus["zh"][:40]
    for kind in ("near", "sft"):
        one = made_bytes(kind, documents, tmp_path / f"{kind}1", shards=2)
        assert made_bytes(kind, documents, tmp_path / f"{kind}2", shards=2, runner=Runner("DirectRunner")) == one


def test_an_error_of_a_worker_is_ours_and_names_file_and_line(tmp_path):
    lines = [f'{{"id": "{i}", "text": "text {i}"}}' for i in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.jsonl").write_text("\n".join([*lines[:3], "{oops"]) + "\n")
    runners = [Runner(), Runner(workers=2)]
    for runner in runners:
        with pytest.raises(DataError, match=r"b\.jsonl:4: broken JSON"):
            dedup_files("exact", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out", runner=runner)
    (tmp_path / "b.jsonl").write_text("\n".join(['{"id": "9", "text": "one"}', '{"id": "9", "text": "other"}']) + "\n")
    with pytest.raises(DataError, match=r"b\.jsonl:2: id '9' occurs a second time; the first is at .*b\.jsonl:1"):
        dedup_files("exact", [tmp_path / "a.jsonl", tmp_path / "b.jsonl"], tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == []


def test_runners_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match=r"workers=0 must be"):
        Runner(workers=0)
    with pytest.raises(ConfigError, match="among its own options"):
        Runner("DirectRunner", workers=4)


def test_lines_keep_their_numbers_over_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(block, "BLOCK_BYTES", 100)
    monkeypatch.setattr(block, "SCAN_BYTES", 30)
    path = tmp_path / "x.jsonl"
    long = json.dumps({"n": 5, "text": "长" * 200})  # a line larger than a block
    path.write_text("\n".join(long if i == 5 else json.dumps({"n": i}) for i in range(1, 60)), encoding="utf-8")
    blocks = records.blocks([path])
    assert len(blocks) > 3
    got = [(number, record["n"]) for block in blocks for number, record, _ in records.read_block(block)]
    assert got == [(n, n) for n in range(1, 60)]


@pytest.mark.parametrize("empty", ["", "\n  \n"])
def test_a_file_without_records_is_refused_by_name(tmp_path, corpus, empty):
    jsonl.write_jsonl(tmp_path / "x.jsonl", corpus["zh"][:3])
    (tmp_path / "empty.jsonl").write_text(empty)
    inputs = [tmp_path / "x.jsonl", tmp_path / "empty.jsonl"]
    for stage in (functools.partial(dedup_files, "exact"), functools.partial(dedup_files, "near"), clean_files):
        with pytest.raises(DataError, match=r"empty\.jsonl: is empty"):
            stage(inputs, tmp_path / "out")
    for docs, sft in ((inputs, [EMBEDDED / "sft.jsonl"]), (inputs[:1], [tmp_path / "empty.jsonl"])):
        with pytest.raises(DataError, match=r"empty\.jsonl: is empty"):
            against_sft_files(docs, sft, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_denied_source_is_refused_with_file_line_and_id(tmp_path, corpus):
    mislabelled = {"id": "m7", "text": "These words are of another crawl.", "source": "CommonCrawl-2023"}
    jsonl.write_jsonl(tmp_path / "x.jsonl", [*corpus["en"][:3], mislabelled])
    message = r"x\.jsonl:4: id 'm7': source 'CommonCrawl-2023' is denied, as commoncrawl, c4 are"
    for kind in ("exact", "near"):
        with pytest.raises(DataError, match=message):
            dedup_files(kind, [tmp_path / "x.jsonl"], tmp_path / "out")
    with pytest.raises(DataError, match=message):
        against_sft_files([tmp_path / "x.jsonl"], [EMBEDDED / "sft.jsonl"], tmp_path / "out")
    with pytest.raises(DataError, match=message):
        list(records.documents(tmp_path / "x.jsonl"))


@pytest.mark.parametrize("marked", [{"weight": 0}, {"train": False}, {"messages": "answer"}])
def test_of_equal_dialogues_the_one_that_is_trained_on_stays_and_is_counted(tmp_path, capsys, marked):
    def talk(**of_answer):
        return [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4", **of_answer}]

    given = marked if "messages" not in marked else {"messages": talk(weight=0)}
    off = {"id": "a", "meta": {"quality": 9}, "messages": talk(), **given}
    jsonl.write_jsonl(tmp_path / "x.jsonl", [off, {"id": "b", "messages": talk()}])
    made = dedup_files("exact", [tmp_path / "x.jsonl"], tmp_path / "out")
    assert [r["id"] for _, r in jsonl.read_jsonl(tmp_path / "out" / "x.jsonl")] == ["b"]
    assert made["figures"]["kept_for_loss"] == 1
    assert "1 duplicates were kept instead of others in which more answers have weight 0" in capsys.readouterr().err
