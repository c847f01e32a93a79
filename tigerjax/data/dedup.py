"""Duplicates: exact (hash of a key), near (MinHash), and against the instruction data (containment).

Keys are those of `grams`. Outputs are sorted by id, so they do not depend on
the order of the input.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax import manifest
from tigerjax.data import containment, records
from tigerjax.data.grams import character_units, gram_hashes, is_cjk, key, word_units, words
from tigerjax.errors import DataError

SHINGLE = 5
BANDS, BAND_ROWS = 14, 8
MIN_SHINGLES = 5
NEAR_THRESHOLD = 0.7
MINHASH_SEED = 1


def exact_groups(documents: Sequence[records.Record]) -> list[list[int]]:
    """Indices of documents with one key, two or more in a group."""
    import xxhash

    groups: dict[bytes, list[int]] = defaultdict(list)
    for i, document in enumerate(documents):
        groups[xxhash.xxh3_128_digest(key(document["text"]).encode())].append(i)
    return [group for group in groups.values() if len(group) > 1]


def shingle_hashes(text: str) -> np.ndarray:
    """Distinct hashes of the text's 5-character (CJK) or 5-word shingles."""
    text_words = words(text)
    text_key = "".join(text_words)
    units = character_units(text_key) if is_cjk(text_key) else word_units(text_words)
    return np.unique(gram_hashes(units, SHINGLE))


def signatures(shingles: Sequence[np.ndarray]) -> np.ndarray:
    """uint32 MinHash signatures [documents, BANDS x BAND_ROWS]."""
    import rensa

    offsets = np.concatenate([[0], np.cumsum([len(s) for s in shingles])]).astype(np.uint64)
    flat = np.concatenate(shingles) if shingles else np.zeros(0, np.uint64)
    matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, BANDS * BAND_ROWS, MINHASH_SEED)
    return np.array(matrix.to_rows(), np.uint32).reshape(len(shingles), BANDS * BAND_ROWS)


def near_groups(documents: Sequence[records.Record], threshold: float = NEAR_THRESHOLD) -> list[list[int]]:
    """Indices of documents joined by an estimated Jaccard similarity >= threshold, two or more in a group.

    Candidates share one of 14 bands of 8 MinHash rows and are then verified over all 112. Documents of fewer than 5
    shingles are never candidates.
    """
    shingles = {i: s for i, d in enumerate(documents) if len(s := shingle_hashes(d["text"])) >= MIN_SHINGLES}
    ids = list(shingles)
    sig = signatures([shingles[i] for i in ids])
    parent = list(range(len(documents)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    same: dict[bytes, list[int]] = defaultdict(list)  # equal signatures are joined at once: no pairs among them
    for at in range(len(ids)):
        same[sig[at].tobytes()].append(at)
    for group in same.values():
        for at in group[1:]:
            parent[root(ids[at])] = root(ids[group[0]])
    firsts = [group[0] for group in same.values()]
    tried: set[tuple[int, int]] = set()
    for band in range(BANDS):
        buckets: dict[bytes, list[int]] = defaultdict(list)
        for at in firsts:
            buckets[sig[at, band * BAND_ROWS : (band + 1) * BAND_ROWS].tobytes()].append(at)
        for bucket in buckets.values():
            for x, a in enumerate(bucket):
                for b in bucket[x + 1 :]:
                    if (a, b) in tried:
                        continue
                    tried.add((a, b))
                    if np.mean(sig[a] == sig[b]) >= threshold:
                        parent[root(ids[b])] = root(ids[a])
    groups: dict[int, list[int]] = defaultdict(list)
    for i in range(len(documents)):
        groups[root(i)].append(i)
    return [group for group in groups.values() if len(group) > 1]


def survivor(documents: Sequence[records.Record], group: Iterable[int]) -> int:
    """The one to keep: the longest text, then the smallest id."""
    return min(group, key=lambda i: (-len(documents[i]["text"]), documents[i]["id"]))


def drop_duplicates(documents: Sequence[records.Record], groups: Iterable[Iterable[int]]) -> set[int]:
    """Indices to drop: all of each group but its survivor."""
    gone: set[int] = set()
    for group in map(list, groups):
        gone |= set(group) - {survivor(documents, group)}
    return gone


def load(paths: Sequence[Path]) -> tuple[list[records.Record], list[str]]:
    """Documents of all files and the name of the file of each; duplicate ids over all files are refused."""
    records.distinct_names(paths)
    seen: dict[str, str] = {}
    documents, names = [], []
    for path in paths:
        for number, record in records.read_jsonl(path):
            where = f"{path}:{number}"
            document = records.as_document(record, where)
            documents.append({**document, "id": records.unique_id(where, record, seen)})
            names.append(path.name)
    return documents, names


def write(folder: Path, paths: Sequence[Path], documents: Iterable[tuple[records.Record, str]]) -> None:
    """OUT/<name of the input>, each sorted by id."""
    by_name: dict[str, list[records.Record]] = {path.name: [] for path in paths}
    for document, name in documents:
        by_name[name].append(document)
    for name, group in by_name.items():
        records.write_jsonl(folder / name, sorted(group, key=lambda d: d["id"]))


def dedup_files(
    kind: Literal["exact", "near"],
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    threshold: float = NEAR_THRESHOLD,
) -> dict[str, Any]:
    """Keeps one document of each cluster over all inputs; OUT/<name of the input>, clusters.jsonl; the manifest."""
    paths = records.expand(inputs)
    config: dict[str, Any] = {"kind": kind, "threshold": threshold if kind == "near" else None}
    with manifest.stage(out, name="dedup", config=config, inputs=paths) as run:
        if run.done:
            return run.manifest or {}
        started = time.perf_counter()
        documents, names = load(paths)
        find: Callable[[Sequence[records.Record]], list[list[int]]] = exact_groups
        if kind == "near":
            find = lambda given: near_groups(given, threshold)  # noqa: E731
        groups = find(documents)
        gone = drop_duplicates(documents, groups)
        write(run.tmp, paths, ((d, names[i]) for i, d in enumerate(documents) if i not in gone))
        clusters = [
            {"kept": documents[survivor(documents, g)]["id"], "all": sorted(documents[i]["id"] for i in g)}
            for g in groups
        ]
        (run.tmp / "clusters").mkdir()
        records.write_jsonl(run.tmp / "clusters" / "clusters.jsonl", sorted(clusters, key=lambda c: c["kept"]))
        run.counts = {"in": len(documents), "out": len(documents) - len(gone), "dropped": {kind: len(gone)}}
        run.figures = {"clusters": len(groups), **records.speed(paths, time.perf_counter() - started)}
    return run.manifest or {}


def against_sft_files(
    docs: Sequence[str | Path],
    sft: Sequence[str | Path],
    out: str | Path,
    *,
    action: containment.Action = "cut",
    threshold: float = containment.THRESHOLD,
) -> dict[str, Any]:
    """Removes from documents what the SFT files teach; OUT/<name of the input>, hits/hits.jsonl; the manifest."""
    doc_paths, sft_paths = records.expand(docs), records.expand(sft)
    config = {"action": action, "threshold": threshold, "gram": containment.GRAM}
    with manifest.stage(out, name="against_sft", config=config, inputs=[*doc_paths, *sft_paths]) as run:
        if run.done:
            return run.manifest or {}
        started = time.perf_counter()
        documents, names = load(doc_paths)
        units = containment.sft_units(records.sft_examples(sft_paths))
        if not units:
            raise DataError(f"{', '.join(map(str, sft_paths))}: no instruction data, so nothing could be found")
        index = containment.Index(units)
        results, report, stopped = containment.against_sft(documents, index, action=action, threshold=threshold)
        kept = [(r, name) for r, name in zip(results, names, strict=True) if r is not None]
        write(run.tmp, doc_paths, kept)
        (run.tmp / "hits").mkdir()
        records.write_jsonl(run.tmp / "hits" / "hits.jsonl", sorted(report, key=lambda h: (h["doc"], h["sft_id"])))
        dropped = len(documents) - len(kept)
        run.counts = {"in": len(documents), "out": len(kept), "dropped": {"against_sft": dropped}}
        changed = sum(r is not None and r["text"] != d["text"] for r, d in zip(results, documents, strict=True))
        run.figures = {
            "hits": len(report),
            "cut": changed,
            "stop_grams": stopped,
            "units_too_short": index.ignored,
            **records.speed(doc_paths, time.perf_counter() - started),
        }
    return run.manifest or {}
