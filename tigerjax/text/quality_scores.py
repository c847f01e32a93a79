"""Scores of documents: written to `meta.quality`, and what is made of them, for all sources or for each.

A document of a score below the threshold of its source is dropped. With `power` or `factors` each that stays gets a
`weight`, which a source of a mixture with `passes` reads (`data.weighted`):

    weight = weight before x factor of its source x score ^ power

The weight before is that of `dedup soft`, or 1. `meta` keeps what was multiplied, so scoring again starts from the same
weight and changes nothing.
"""

import dataclasses
import functools
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tigerjax import pages, records
from tigerjax.errors import ConfigError, DataError
from tigerjax.pages.numbers import number as shown_number
from tigerjax.records.sft import Counts
from tigerjax.stages import parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text.document_stage import Corpus, DocumentStage, decided, documents_of, run_stage
from tigerjax.text.quality import scorer, scorer_files
from tigerjax.text.samples import Samples

DIGITS = 4
TOGETHER = 256
"""Texts that a scorer gets at one time."""
MOST_SOURCES = 200
"""Of one part that are counted by their names, and that the report shows; those after them are counted together."""
OTHERS, NO_SOURCE = "(others)", "(none)"
MOST_FACTOR, MOST_POWER = 100.0, 10.0
VERSION = 2
TENTHS = tuple(f"{tenth / 10}" for tenth in range(10))
BEFORE, TIMES = "weight_before", "weight_by_quality"
"""In `meta`: the weight before it was multiplied, and by what."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """What is made of a score. The mappings are by the source of a document."""

    least: float = 0.0
    """A document with a smaller score is dropped."""
    least_of: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """In place of `least` for documents of these sources."""
    power: float | None = None
    """The weight is multiplied by score ^ power; None: by nothing."""
    factors: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """Of the weight of documents of these sources."""

    def __post_init__(self) -> None:
        thresholds = {"": self.least, **self.least_of}
        if wrong := {name: value for name, value in thresholds.items() if not 0 <= value <= 1}:
            raise ConfigError(f"the least score {_first(wrong)} must be in [0, 1]")
        if wrong := {name: value for name, value in self.factors.items() if not 0 < value <= MOST_FACTOR}:
            raise ConfigError(f"the factor {_first(wrong)} must be above 0, at most {MOST_FACTOR:g}")
        if self.power is not None and not 0 < self.power <= MOST_POWER:
            raise ConfigError(f"power={self.power} must be above 0, at most {MOST_POWER:g}")

    def weighs(self) -> bool:
        return self.power is not None or bool(self.factors)

    def config(self) -> dict[str, Any]:
        """What of it decides the output, for the config of the stage."""
        given = {"least_of": dict(sorted(self.least_of.items())), "factors": dict(sorted(self.factors.items()))}
        return {"least": self.least, **({"power": self.power} if self.power is not None else {})} | {
            name: value for name, value in given.items() if value
        }


def _first(wrong: Mapping[str, float]) -> str:
    name, value = min(wrong.items())
    return f"{name}={value}" if name else str(value)


def _source(record: records.Record) -> str:
    given = record.get("source")
    return NO_SOURCE if given is None or given == "" else str(given)


def _with_score(record: records.Record, score: float, use: Use) -> records.Record:
    """The document with its score, and with its weight where the use gives one."""
    meta = record.get("meta")
    meta = {**meta} if isinstance(meta, dict) else {} if meta is None else {"meta": meta}
    before, times = meta.pop(BEFORE, None), meta.pop(TIMES, None)
    weight = records.document_weight(record, "")
    if all(isinstance(value, int | float) for value in (before, times)) and weight == _product(before, times):
        weight = before  # as it was before this stage multiplied it
    meta["quality"] = score
    if not use.weighs():
        return {**record, **({} if weight is None else {"weight": weight}), "meta": meta}
    base = 1.0 if weight is None else weight
    times = use.factors.get(_source(record), 1.0) * (1.0 if use.power is None else score**use.power)
    times = round(times, DIGITS)
    return {**record, "weight": _product(base, times), "meta": meta | {BEFORE: base, TIMES: times}}


def _product(base: float, times: float) -> float:
    return min(records.MOST_OFTEN, round(base * times, DIGITS))


def _weighed(record: records.Record, where: str, *, counts: Counts | None = None) -> records.Record:
    """A document, of which a weight that is none is refused while its line is known."""
    shaped = records.only_document(record, where, counts=counts)
    records.document_weight(shaped, where)
    return shaped


def _nothing(work: Path, number: int, documents: list[parts.Document]) -> dict[str, Any]:
    return {}


def _score_part(work: Path, shards: int, name: str, use: Use, number: int) -> dict[str, Any]:
    drawn, figures, sources = Samples(), Counter[str](), dict[str, str]()

    def found() -> Iterator[tuple[int, records.Record | None]]:
        for place, record, given in _scored(documents_of(work, number), name):
            score = float(given)
            if not 0 <= score <= 1:
                where = parts.PartIds(work, number).where(place)
                raise DataError(f"{where}: scorer {name} gave {score}; a score is from 0 to 1")
            score = round(score, DIGITS)
            tenth = TENTHS[min(int(score * 10), 9)]
            source = _source(record)
            counted = sources.setdefault(source, source if len(sources) < MOST_SOURCES else OTHERS)
            stays = score >= use.least_of.get(source, use.least)
            figures[tenth] += 1
            drawn.add(f"score {tenth}", record["id"], record["text"], f"score {score}")
            made = _with_score(record, score, use) if stays else None
            if made is not None and use.weighs():
                figures["capped"] += made["meta"][BEFORE] * made["meta"][TIMES] > records.MOST_OFTEN
            for what, more in (
                (tenth, 1),
                ("in", 1),
                ("out", int(stays)),
                ("score", round(score * 10**DIGITS)),
                ("weight", 0 if made is None else round(made.get("weight", 1.0) * 10**DIGITS)),
            ):
                figures[f"source {what} {counted}"] += more
            yield place, made

    return {**decided(work, number, found(), drawn), **figures}


def _scored(documents: Iterator[tuple[int, records.Record]], name: str) -> Iterator[tuple[int, records.Record, float]]:
    """(place, document, score), of which TOGETHER are scored at one time."""
    scores = scorer(name)
    while group := list(itertools.islice(documents, TOGETHER)):
        made = list(scores([record["text"] for _, record in group]))
        if len(made) != len(group):
            raise DataError(f"scorer {name} gave {len(made)} scores for {len(group)} texts; one for each is needed")
        yield from ((place, record, score) for (place, record), score in zip(group, made, strict=True))


def _decide(name: str, use: Use, corpus: Corpus) -> list[dict[str, Any]]:
    return corpus.by_part(_score_part, "score", name, use)


def _figures(use: Use, totals: dict[str, int]) -> dict[str, Any]:
    """`by_score` counts all documents, `by_source` those of each source, with its mean score and sum of weights."""
    by_score = {name: count for name, count in totals.items() if name in TENTHS}
    counted: dict[str, dict[str, int]] = {}
    for name, count in totals.items():
        if name.startswith("source "):
            _, what, source = name.split(" ", 2)
            counted.setdefault(source, {})[what] = count
    by_size = sorted(counted, key=lambda source: (-counted[source]["in"], source))
    for source in by_size[MOST_SOURCES:]:
        rest = counted.setdefault(OTHERS, {})
        for what, count in counted.pop(source).items():
            rest[what] = rest.get(what, 0) + count
    for named in sorted({*use.least_of, *use.factors} - set(counted)):
        if OTHERS not in counted:
            records.note(f"no document has the source {named!r}; there are {', '.join(sorted(counted)[:10])}")
    by_source = {
        source: {
            "in": of["in"],
            "out": of["out"],
            "score": round(of["score"] / of["in"] / 10**DIGITS, DIGITS),
            **({"weight": of["weight"] / 10**DIGITS} if use.weighs() else {}),
            "by_score": {tenth: of[tenth] for tenth in TENTHS if of.get(tenth)},
        }
        for source, of in counted.items()
    }
    capped = {"capped": totals["capped"]} if totals.get("capped") else {}
    if capped:
        records.note(f"{totals['capped']} weights would be above {records.MOST_OFTEN:g}, and are cut to that")
    return {"by_score": by_score, "by_source": by_source, **capped}


def _tables(figures: dict[str, Any]) -> dict[str, pages.Table]:
    """The histogram of the scores of each source."""
    rows = []
    for source, of in figures["by_source"].items():
        tenths = [shown_number(of["by_score"].get(tenth, 0)) for tenth in TENTHS]
        rows.append([source, shown_number(of["in"]), shown_number(of["out"]), f"{of['score']:.3f}", *tenths])
    return {"Scores by source": pages.Table(["source", "in", "out", "mean", *TENTHS], rows)}


def score_files(
    inputs: Sequence[str | Path],
    model: str | Path,
    out: str | Path,
    *,
    use: Use | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Writes the score of each document to its `meta.quality`, and does with it as `use` says; returns the manifest.

    `model` is a folder of `quality.train`, or MODULE:FUNCTION. The figures count documents by the tenth of their
    scores, in all and by source. Raises DataError for an SFT example, and for a function that returns no number from 0
    to 1.
    """
    name, use = str(model), use or Use()
    config = {"model": name if ":" in name else "", **use.config(), "version": VERSION}
    decide, figures = functools.partial(_decide, name, use), functools.partial(_figures, use)
    files = scorer_files(name)
    stage = DocumentStage("quality_score", "Quality", config, _nothing, decide, figures, _tables, files, _weighed)
    return run_stage(stage, inputs, out, shards=scan.SHARDS, runner=runner)
