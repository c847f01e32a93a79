"""`data inspect`: cached rows as people read them, one tab a source; segments by colour, loss by underline."""

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.config import DataConfig
from tigerjax.data.loader import Loader
from tigerjax.data.mixture import open_loader, stats
from tigerjax.data.rows import row_weights
from tigerjax.files import paths
from tigerjax.files.progress import Progress
from tigerjax.text import page
from tigerjax.tokenizer.load import BYTE, Tokenizer, read_proto

TABS = """
nav label { margin-right: 1rem; cursor: pointer; } .tab, input[name=tab] { display: none; }
"""


def _spans(row: np.ndarray, tok: Tokenizer, is_byte: Sequence[bool]) -> Iterator[tuple[str, int, float, list[int]]]:
    """(text, segment, weight, ids) of each token of a row [3, L]; the bytes of one character come together."""
    tokens, segments, weights = row[0].tolist(), row[1].tolist(), row_weights(row).tolist()
    at = 0
    while at < len(tokens):
        end = at + 1
        if tokens[at] < len(is_byte) and is_byte[tokens[at]]:
            while end < len(tokens) and segments[end] == segments[at] and is_byte[min(tokens[end], len(is_byte) - 1)]:
                end += 1
            raw = bytes(int(tok.piece(i)[3:5], 16) for i in tokens[at:end])
            text = raw.decode("utf-8", "replace")
        else:
            text = tok.piece(tokens[at]).replace("\u2581", " ")
        yield text, segments[at], weights[at], tokens[at:end]
        at = end


def row_html(row: np.ndarray, tok: Tokenizer, is_byte: Sequence[bool]) -> str:
    """One row: a span a token, its id and loss weight as the tooltip, a bar where a segment begins."""
    out, before = [], 0
    for text, segment, weight, ids in _spans(row, tok, is_byte):
        if segment != before and segment > 1:
            out.append('<b class="border">|</b>')
        kind = "pad" if segment == 0 else f"s{segment % 2}{' loss' if weight else ''}"
        said = f"id {', '.join(map(str, ids))}, segment {segment}, weight {weight:g}"
        shown = page.escaped(text).replace("\n", "↵<br>")
        out.append(f'<span class="{kind}" title="{said}">{shown}</span>')
        before = segment
    return f'<div class="row">{"".join(out)}</div>'


def _summary(figures: dict[str, Any]) -> str:
    rows = []
    for name, wanted in figures["wanted"].items():
        realised, about = figures["realised"][name], figures["sources"][name]
        bar = page.Raw(f'<span class="bar" style="width:{200 * realised:.1f}px"></span>{100 * realised:.2f}%')
        needed = realised * figures["rows_of_an_epoch"] / about["rows"]
        cells = [name, f"{100 * wanted:.2f}%", bar, about["rows"], about["tokens"], about["chars_per_token"], needed]
        rows.append(cells)
    head = ["source", "share wanted", "share realised", "rows", "tokens", "characters a token", "epochs"]
    return f"<p>{page.number(figures['rows'])} rows, {100 * figures['fill']:.2f}% tokens.</p>{page.table(head, rows)}"


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
    """Writes the page; returns the figures of `data stats`."""
    loader = open_loader(data, batch_rows=1, seed=seed, progress=progress)
    figures = stats(data, batch_rows=1, seed=seed)
    tok = Tokenizer(Path(data.tokenizer))
    is_byte = [piece.type == BYTE for piece in read_proto(Path(data.tokenizer)).pieces]
    inputs = labels = tabs = style = ""
    for n, (name, shown) in enumerate(rows_shown(loader, rows, seed).items()):
        inputs += f'<input type="radio" name="tab" id="t{n}"{" checked" if not n else ""}>'
        labels += f'<label for="t{n}">{page.escaped(name)}</label>'
        style += (
            f"#t{n}:checked ~ #p{n} {{ display: block; }} #t{n}:checked ~ nav label[for=t{n}] {{ font-weight: bold; }}"
        )
        body = "".join(row_html(row, tok, is_byte) for row in shown)
        tabs += f'<div class="tab" id="p{n}"><h2>{page.escaped(name)}</h2>{body}</div>'
    legend = '<p><span class="s1">odd</span> and <span class="s0">even</span> segments; <span class="loss">in the loss'
    legend += '</span>; <span class="pad">padding</span>; hold the pointer on a token for its id and weight.</p>'
    body = f"<style>{TABS}{style}</style>{_summary(figures)}{legend}{inputs}<nav>{labels}</nav>{tabs}"
    out.parent.mkdir(parents=True, exist_ok=True)
    paths.write_text(out, page.document(f"Mixture {data.mixture}", body))
    return figures
