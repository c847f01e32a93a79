"""How well a model reads rows that are longer than those of its training: loss by position, and numbers found again.

The rows of all lengths end at the same tokens. So the loss of the last ones says what the text further back is worth:
a model that uses it has a lower loss there, and a model that is confused by it a higher one.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import RopeConfig
from tigerjax.config.ranges import Count, check
from tigerjax.config.rope import USES, RopeFactor, RopeKind
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate.answerer import Answerer
from tigerjax.evaluate.needles import DEPTHS, needles, sentences
from tigerjax.files.manifest import canonical
from tigerjax.files.progress import Advance, Progress
from tigerjax.tokenizer.sample import read_all
from tigerjax.tokenizer.verify import language


@dataclasses.dataclass(frozen=True, kw_only=True)
class LengthConfig:
    """What is measured."""

    trained: Count
    """Tokens of the rows that the model was trained on."""
    times: tuple[Count, ...]
    """The lengths, in multiples of `trained`."""
    ropes: tuple[RopeKind, ...]
    """The kinds of rope that are tried on the model; none: its own only."""
    factor: RopeFactor
    """The factor of those kinds."""
    rows: Count
    """Rows of text for each language."""
    needles: Count
    """Hidden numbers for each language, length and depth."""

    def __post_init__(self) -> None:
        check(self, "evaluation.")
        if not self.times or len(set(self.times)) != len(self.times):
            raise ConfigError(f"--times {' '.join(map(str, self.times))} must be different lengths, at least one")

    @property
    def longest(self) -> int:
        return self.trained * max(self.times)

    @property
    def width(self) -> int:
        """Positions of a bin. Every length is a whole number of bins."""
        return self.trained if self.trained % 2 else self.trained // 2


@dataclasses.dataclass(frozen=True)
class Texts:
    """One language's text: rows of the greatest length, and sentences between which numbers are hidden."""

    rows: list[list[int]]
    sentences: list[list[int]]


def read_texts(files: Sequence[str | Path], tokenizer: Any, config: LengthConfig) -> dict[str, Texts]:
    """By language, the documents of the files, joined as in training: each text and its eos.

    The language is a record's `lang`, or else guessed by the share of CJK characters. Reads as much text as the rows
    need. Raises DataError for a language that has less than one row.
    """
    streams: dict[str, list[int]] = {}
    texts: dict[str, list[str]] = {}
    for _, text, declared in read_all(files):
        lang = declared or language(text)
        stream = streams.setdefault(lang, [])
        if len(stream) < config.rows * config.longest:
            stream += [*tokenizer.encode(text), tokenizer.eos]
            texts.setdefault(lang, []).append(text)
    found = {}
    for lang, stream in sorted(streams.items()):
        if len(stream) < config.longest:
            raise DataError(
                f"{', '.join(map(str, files))}: {len(stream)} tokens of {lang}, a row of {max(config.times)} x"
                f" {config.trained} needs {config.longest}; give more text of this language, or smaller --times"
            )
        starts = range(0, len(stream) - config.longest + 1, config.longest)
        rows = [stream[start : start + config.longest] for start in starts][: config.rows]
        found[lang] = Texts(rows, sentences(tokenizer, texts[lang]))
    if not found:
        raise DataError(f"{', '.join(map(str, files))}: no text in them; give files of documents")
    return found


def measure(
    model: Loaded,
    texts: dict[str, Texts],
    config: LengthConfig,
    *,
    batch_rows: int,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """{trained, times, bin, factor, ropes: {kind: {language: {rows, lengths: [LENGTH, …]}}}}.

    LENGTH is {times, length, nats, last_nats, by_position, needles}. `nats` is the loss per token of whole rows in
    nats, `last_nats` that of their last bin, and `by_position` that of each `bin` positions. `needles` is {right, n,
    nats, by_depth}: the share of the numbers that were found, how many there were, and the loss of their tokens.
    """
    ropes = {model.config.rope.kind: model.config.rope} if not config.ropes else {}
    ropes |= {kind: scaled(kind, config) for kind in config.ropes}
    figures: dict[str, Any] = {}
    for kind, rope in ropes.items():
        answerer = Answerer(with_rope(model, rope), context=config.longest, rows=batch_rows, cache=cache)
        figures[kind] = {}
        for lang, own in texts.items():
            bar = progress(f"rope {kind}, {lang}", "rows") if progress and answerer.writes else None
            figures[kind][lang] = _of_language(answerer, lang, own, config, bar)
    return {
        "trained": config.trained,
        "times": list(config.times),
        "bin": config.width,
        "factor": config.factor if config.ropes else model.config.rope.factor,
        "ropes": figures,
    }


def scaled(kind: RopeKind, config: LengthConfig) -> RopeConfig:
    """A rope of a kind with the factor and the original length of `config`, where the kind reads them."""
    fields: dict[str, Any] = {"factor": config.factor, "original_max_position_embeddings": config.trained}
    return RopeConfig(kind=kind, **{name: value for name, value in fields.items() if name in USES[kind]})


def with_rope(model: Loaded, rope: RopeConfig) -> Loaded:
    """The same weights with another rope. It is another model for the file of results."""
    if rope == model.config.rope:
        return model
    name = hashlib.sha256(canonical([model.sha256, dataclasses.asdict(rope)])).hexdigest()
    return dataclasses.replace(model, config=dataclasses.replace(model.config, rope=rope), sha256=name)


def _of_language(
    answerer: Answerer, lang: str, texts: Texts, config: LengthConfig, progress: Advance | None
) -> dict[str, Any]:
    done, lengths = 0, []
    all_rows = len(config.times) * (len(texts.rows) + len(DEPTHS) * config.needles)

    def after(start: int) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda at, _: progress(start + at, all_rows)

    for times in config.times:
        length = times * config.trained
        nats = answerer.by_position([row[-length:] for row in texts.rows], config.width, after(done))
        done += len(texts.rows)
        found = _needles(answerer, lang, texts, length, config.needles, after(done))
        done += len(DEPTHS) * config.needles
        counts = np.diff([1, *range(config.width, length, config.width), length])  # nothing predicts the first token
        sums = np.sum(nats, axis=0)
        lengths.append(
            {
                "times": times,
                "length": length,
                "nats": float(sums.sum() / (counts.sum() * len(nats))),
                "last_nats": float(sums[-1] / (counts[-1] * len(nats))),
                "by_position": [float(s / (c * len(nats))) for s, c in zip(sums, counts, strict=True)],
                "needles": found,
            }
        )
    return {"rows": len(texts.rows), "lengths": lengths}


def _needles(
    answerer: Answerer, lang: str, texts: Texts, length: int, count: int, progress: Advance | None
) -> dict[str, Any]:
    asked = list(needles(answerer.tokenizer, lang, texts.sentences, length=length, count=count))
    scores = answerer.loglikelihoods([(one.ids, one.first) for one in asked], progress)
    right = {depth: [greedy for one, (_, greedy) in zip(asked, scores, strict=True) if one.depth == depth]
             for depth in DEPTHS}  # fmt: skip
    tokens = sum(length - one.first for one in asked)
    return {
        "right": sum(map(sum, right.values())) / len(asked),
        "n": len(asked),
        "nats": -sum(logprob for logprob, _ in scores) / tokens,
        "by_depth": {f"{depth:g}": sum(own) / len(own) for depth, own in right.items()},
    }
