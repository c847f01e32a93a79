"""Samples of what a stage did to texts, before and after: those with the smallest draws, whatever the order."""

import heapq
import json
from collections.abc import Iterable
from pathlib import Path

from tigerjax.files import manifest

SAMPLES = 20
"""Pairs of texts that are shown for each rule."""
SAMPLE_CHARACTERS = 200
Sample = tuple[int, str, str]
"""(draw, before, after)."""
Pairs = dict[str, list[tuple[str, str]]]
"""The samples (before, after) of each rule."""


def around(old: str, new: str) -> tuple[str, str]:
    """SAMPLE_CHARACTERS of both texts, from a little before their first difference on."""
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    first = max(same - SAMPLE_CHARACTERS // 4, 0)
    return old[first : first + SAMPLE_CHARACTERS], new[first : first + SAMPLE_CHARACTERS]


class Samples:
    """The samples of each rule in one part of the records."""

    def __init__(self) -> None:
        self.drawn: dict[str, list[Sample]] = {}

    def add(self, rule: str, identity: str, old: str, new: str) -> None:
        """Takes the pair into account; the rule, the id of the record and the old text decide whether it is shown."""
        import xxhash

        draw = xxhash.xxh3_64_intdigest(f"{rule}\0{identity}\0{old}".encode("utf-8", "surrogatepass"))
        drawn = self.drawn.setdefault(rule, [])
        if len(drawn) < SAMPLES or draw < drawn[-1][0]:
            drawn.append((draw, *around(old, new)))
            drawn.sort()
            del drawn[SAMPLES:]


def save(work: Path, number: int, samples: Samples) -> None:
    """Writes the samples of a part."""
    manifest.write_json(work / f"samples-{number}.json", samples.drawn)


def gathered(work: Path, numbers: Iterable[int]) -> Pairs:
    """The samples of all parts. One part is held at a time, as of a terabyte there are more than fit into memory."""
    samples: dict[str, list[Sample]] = {}
    for number in numbers:
        of_part = json.loads((work / f"samples-{number}.json").read_text(encoding="utf-8"))
        for name, drawn in of_part.items():
            samples[name] = heapq.nsmallest(SAMPLES, [*samples.get(name, []), *((d, b, a) for d, b, a in drawn)])
    return {name: [(before, after) for _, before, after in drawn] for name, drawn in sorted(samples.items())}


def write(path: Path, pairs: Pairs) -> None:
    """Writes samples.json."""
    shown = {name: [{"before": b, "after": a} for b, a in drawn] for name, drawn in pairs.items()}
    path.write_text(json.dumps(shown, ensure_ascii=False, indent=1), encoding="utf-8")
