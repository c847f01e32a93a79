"""`data inspect`: a page that shows cached rows as text, one tab for each source."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import pages
from tigerjax.config import DataConfig
from tigerjax.data import mixture
from tigerjax.data.loader import Loader
from tigerjax.data.rows import row_weights
from tigerjax.files.progress import Progress
from tigerjax.pages.charts import Bar, share_bars
from tigerjax.pages.numbers import number, percent
from tigerjax.tokenizer.load import Tokenizer


class ShownToken(NamedTuple):
    """A token of a row, or the byte tokens of one character: its text, its place and its loss weight."""

    text: str
    segment: int  # 0 is padding
    weight: float  # in the loss
    ids: list[int]
    begins: bool  # a segment, other than the row's first


def spans(row: np.ndarray, tok: Tokenizer) -> Iterator[ShownToken]:
    """The tokens of a row int32 [3, L] as text, in order."""
    tokens, segments, weights = row[0].tolist(), row[1].tolist(), row_weights(row).tolist()
    at, before = 0, 0
    while at < len(tokens):
        end = at + 1
        if tok.is_byte(tokens[at]):
            while end < len(tokens) and segments[end] == segments[at] and tok.is_byte(tokens[end]):
                end += 1
        text = b"".join(tok.bytes_of(i) for i in tokens[at:end]).decode("utf-8", "replace")
        yield ShownToken(text, segments[at], weights[at], tokens[at:end], segments[at] > 1 and segments[at] != before)
        at, before = end, segments[at]


def _sources(figures: dict[str, Any]) -> tuple[list[tuple[str, Any]], pages.Table]:
    """Bars of the token shares by source, wanted and measured, and a table of what each source holds."""
    shares, cells = [], []
    last = [*figures["wanted"]][-1]
    for name, wanted in figures["wanted"].items():
        realised, about = figures["realised"][name], figures["sources"][name]
        sides = (("wanted", wanted), ("measured", realised))
        drawn = [Bar(side, share, percent(share, 2), side) for side, share in sides]
        shares.append((name, share_bars(drawn, scale=name == last)))
        epochs = realised * figures["rows_of_an_epoch"] / about["rows"]
        cells.append([name, *map(number, (about["rows"], about["tokens"], about["chars_per_token"], epochs))])
    return shares, pages.Table(["source", "rows", "tokens", "characters per token", "epochs"], cells)


def rows_shown(loader: Loader, count: int, seed: int) -> dict[str, np.ndarray]:
    """Up to `count` rows [n, 3, L] of each source, drawn by the seed."""
    out = {}
    for source in loader.sources:
        draw = random.Random(f"{seed} {source.name}").sample(range(source.rows), min(count, source.rows))
        out[source.name] = source.read(sorted(draw))
    return out


def inspect_mixture(
    data: DataConfig, out: Path, *, rows: int, seed: int, progress: Progress | None = None
) -> dict[str, Any]:
    """Writes the page, with up to `rows` rows of each source; returns the figures of `data stats`."""
    loader = mixture.open_loader(data, batch_rows=1, seed=seed, progress=progress)
    figures = mixture.figures(loader, data.seq_len)
    tok = Tokenizer(Path(data.tokenizer))
    shares, table = _sources(figures)
    shown = rows_shown(loader, rows, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    pages.write(
        out,
        "data/rows.html",
        title=f"Mixture {data.mixture}",
        rows=number(figures["rows"]),
        fill=percent(figures["fill"], 2),
        shares=shares,
        table=table,
        tabs={name: [list(spans(row, tok)) for row in rows_B3T] for name, rows_B3T in shown.items()},
    )
    return figures
