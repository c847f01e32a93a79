"""Removes the lines that many pages of one site share: menus, notices, and what else stands around each text.

The site of a document is the host of its `url`, or of `meta.url`. Documents without one, and code, stay as they are. A
line goes when at least `pages` pages of its site have it, and at least the share `share` of them. The steps are

    scan    writes the hash of each different line of a page together with its site, and that of the site
    count   S times: counts the pages of the sites, and of the lines that many have
    cut     removes these lines from each part
"""

import functools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from tigerjax import records
from tigerjax.errors import ConfigError
from tigerjax.stages import parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text.document_stage import Corpus, DocumentStage, decided, documents_of, run_stage
from tigerjax.text.language import declared
from tigerjax.text.samples import Samples

PAGES, SHARE = 5, 0.1
"""The fewest pages of a site that have a line, and their share of its pages [our choice]."""
VERSION = 1


def site_of(record: records.Record) -> str:
    """The host of a document's address without www; empty where it has none, or is code."""
    meta = record.get("meta")
    url = record.get("url") or (meta.get("url") if isinstance(meta, dict) else None)
    if not isinstance(url, str) or declared(record) == "code":
        return ""
    try:
        return (urlsplit(url).hostname or "").removeprefix("www.")
    except ValueError:  # such as half of a bracket
        return ""


def _key(site: str, line: str = "") -> int:
    """The hash of a line of a site, or of the site."""
    from xxhash import xxh3_64_intdigest

    return xxh3_64_intdigest(f"{site}\0{line}".encode("utf-8", "surrogatepass"))


def _lines(text: str) -> set[str]:
    return {line.strip() for line in text.split("\n")} - {""}


def _scan(work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    keys: list[int] = []
    sites: list[int] = []
    without = 0
    for document in documents:
        site = site_of(json.loads(document.line))
        without += not site
        if site:
            sites.append(_key(site))
            keys += [_key(site, line) for line in sorted(_lines(document.text))]
    for what, given in (("lines", keys), ("sites", sites)):
        parts.save_npy(work / f"{what}-{number}.npy", np.sort(np.array(given, np.uint64)))
    return {"without_site": without}


def _counted(work: Path, what: str, numbers: Sequence[int], shards: int, shard: int) -> tuple[np.ndarray, np.ndarray]:
    """(the different keys of a shard, sorted; how often each occurs)."""
    found = [np.zeros(0, np.uint64)]
    for number in numbers:
        keys = np.load(work / f"{what}-{number}.npy", mmap_mode="r", allow_pickle=False)
        found.append(np.array(keys[slice(*parts.shard_of(keys, shard, shards))]))
    return np.unique(np.concatenate(found), return_counts=True)


def _count(work: Path, numbers: Sequence[int], shards: int, pages: int, shard: int) -> None:
    """Writes counts of a shard, uint64 [2, n]: the keys of sites and of lines that at least `pages` pages have."""
    for what in ("lines", "sites"):
        keys, counts = _counted(work, what, numbers, shards, shard)
        many = counts >= pages
        parts.save_npy(work / f"counted-{what}-{shard}.npy", np.stack([keys[many], counts[many].astype(np.uint64)]))


class _Counts:
    """The counts of keys, read from the files of all shards; a key that few pages have counts 0."""

    def __init__(self, work: Path, what: str, shards: int):
        self._shards = [np.load(work / f"counted-{what}-{s}.npy", mmap_mode="r") for s in range(shards)]

    def of(self, keys: Sequence[int]) -> list[int]:
        wanted, out = np.array(keys, np.uint64), np.zeros(len(keys), np.int64)
        for counted in self._shards:
            if not counted.shape[1]:
                continue
            at = np.minimum(np.searchsorted(counted[0], wanted), counted.shape[1] - 1)
            here = counted[0][at] == wanted
            out[here] = counted[1][at[here]]
        return out.tolist()


def _cut(work: Path, shards: int, share: float, number: int) -> dict[str, Any]:
    drawn, figures = Samples(), Counter[str](lines=0)
    of_lines, of_sites = _Counts(work, "lines", shards), _Counts(work, "sites", shards)

    def found() -> Iterator[tuple[int, records.Record | None]]:
        for place, record in documents_of(work, number):
            site, text = site_of(record), record["text"]
            (pages,) = of_sites.of([_key(site)]) if site else (0,)
            if not pages:
                continue
            lines = sorted(_lines(text))
            counts = of_lines.of([_key(site, line) for line in lines])
            gone = {line for line, count in zip(lines, counts, strict=True) if count and count >= share * pages}
            if not gone:
                continue
            split = text.split("\n")
            kept = [line for line in split if line.strip() not in gone]
            figures["lines"] += len(split) - len(kept)
            left = "\n".join(kept).strip("\n")
            drawn.add("site_lines", record["id"], text, left)
            yield place, {**record, "text": left} if left.strip() else None

    return {**decided(work, number, found(), drawn), **figures}


def _decide(pages: int, share: float, corpus: Corpus) -> list[dict[str, Any]]:
    corpus.by_shard(_count, "count", pages)
    without = sum(part["without_site"] for part in corpus.scanned)
    return [*corpus.by_part(_cut, "cut", share), {"without_site": without}]


def site_line_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    pages: int = PAGES,
    share: float = SHARE,
    shards: int = scan.SHARDS,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Removes lines that at least `pages` pages, and the share `share`, of a site have; returns the manifest.

    Writes OUT/<name of the input>. A page of which nothing stays is dropped. Raises ConfigError for fewer than 2 pages,
    and for a share that is none.
    """
    if pages < 2 or not 0 <= share <= 1:
        raise ConfigError(f"pages={pages} must be at least 2, and share={share} in [0, 1]")
    config = {"pages": pages, "share": share, "version": VERSION}
    stage = DocumentStage("site_lines", "Lines of sites", config, _scan, functools.partial(_decide, pages, share))
    return run_stage(stage, inputs, out, shards=shards, runner=runner)
