"""Plots as inline SVG and a little HTML: no script, no request, and text that keeps its size on a narrow screen.

Shapes are placed in percent of the width or drawn in a nested viewBox that stretches without its strokes; letters
are never scaled. Colours are CSS classes (`c-sft`), so one picture serves light and dark.
"""

import html
import math
from typing import NamedTuple

from tigerjax.report.figures import number

MOST_POINTS = 400  # of a curve; more than the page has pixels for
SPAN = 8  # of a curve, the share of its points that smoothing looks back over is 1 / SPAN


class Bar(NamedTuple):
    """`said` is the figure in words; `error` is half the length of the whisker, in the unit of `value`."""

    label: str
    value: float
    said: str
    colour: str
    error: float = 0.0


def clean(text: object) -> str:
    """Escaped for HTML and for SVG; control characters, which neither may hold, become U+FFFD."""
    kept = "".join(c if c in "\n\t" or (c.isprintable() or ord(c) > 0x9F) else "\ufffd" for c in str(text))
    kept = "".join("\ufffd" if 0xD800 <= ord(c) <= 0xDFFF or ord(c) in (0xFFFE, 0xFFFF) else c for c in kept)
    return html.escape(kept, quote=True)


def colour_class(name: str) -> str:
    return "c-" + "".join(c if c.isalnum() else "-" for c in name.lower() if c.isascii())


def bars(rows: list[Bar], low: float, high: float) -> str:
    """Horizontal bars from zero, one a row, on the scale low..high; the whisker is +- `error`."""
    span = (high - low) or 1.0
    lines = []
    for bar in rows:

        def at(value: float) -> float:
            return round(100 * min(1.0, max(0.0, (value - low) / span)), 2)

        zero, end = at(0.0), at(bar.value if math.isfinite(bar.value) else 0.0)
        marks = f'<rect class="fill" x="{min(zero, end)}%" y="3" width="{abs(end - zero):.2f}%" height="12"/>'
        if bar.error > 0:
            left, right = at(bar.value - bar.error), at(bar.value + bar.error)
            marks += f'<line class="whisker" x1="{left}%" x2="{right}%" y1="9" y2="9"/>'
            marks += "".join(f'<line class="whisker" x1="{x}%" x2="{x}%" y1="5" y2="13"/>' for x in (left, right))
        if low < 0 < high:
            marks += f'<line class="axis" x1="{zero}%" x2="{zero}%" y1="0" y2="18"/>'
        said = f"{clean(bar.label)}: {clean(bar.said)}"
        lines.append(
            f'<div class="bar {colour_class(bar.colour)}"><span class="label">{clean(bar.label)}</span>'
            f'<svg role="img" width="100%" height="18"><title>{said}</title>'
            f'<rect class="track" x="0" y="3" width="100%" height="12"/>{marks}</svg>'
            f'<span class="said">{clean(bar.said)}</span></div>'
        )
    return f'<div class="bars">{"".join(lines)}</div>'


def stacked(parts: dict[str, float], said: dict[str, str]) -> str:
    """One bar cut into shares of its sum, with a legend below."""
    total = sum(parts.values()) or 1.0
    left, pieces, legend = 0.0, [], []
    for i, (name, value) in enumerate(parts.items()):
        width = 100 * value / total
        pieces.append(f'<rect class="fill s{i}" x="{left:.2f}%" y="0" width="{width:.2f}%" height="16"/>')
        legend.append(f'<li><i class="s{i}"></i>{clean(name)} <b>{clean(said[name])}</b></li>')
        left += width
    title = clean(", ".join(f"{name} {said[name]}" for name in parts))
    return (
        f'<svg role="img" class="stacked" width="100%" height="16"><title>{title}</title>{"".join(pieces)}</svg>'
        f'<ul class="legend">{"".join(legend)}</ul>'
    )


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """At most `most` + 1 round numbers inside low..high, evenly apart by 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, first + most + 1) if i * step <= high + 1e-9 * step]


def smoothed(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The running mean of a line with weights that fall off over an eighth of its points; few points stay as raw."""
    keep = 1 - 2 / (max(len(points) / SPAN, 1) + 1)
    total, weight, out = 0.0, 0.0, []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        out.append((x, total / weight))
    return out


def curve(points: list[tuple[float, float]], title: str, colour: str) -> str:
    """A line over steps with its own vertical scale, raw and smoothed; points that are not finite are left out."""
    points = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return '<p class="note">no finite value was logged</p>'
    every = math.ceil(len(points) / MOST_POINTS)
    smooth = smoothed(points)
    points, smooth = (line[:-1][::every] + line[-1:] for line in (points, smooth))
    xs, ys = [int(x) if x == int(x) else x for x, _ in points], [y for _, y in points]  # steps are whole
    left, right = min(xs), max(xs)
    pad = 0.06 * (max(ys) - min(ys)) or 0.5
    low, high = min(ys) - pad, max(ys) + pad
    across, up = (right - left) or 1.0, high - low

    def x_of(x: float) -> float:
        return round((x - left) / across, 5)

    def y_of(y: float) -> float:
        return round((high - y) / up, 5)

    grid = "".join(
        f'<line class="grid" x1="0" x2="100%" y1="{100 * y_of(t):.2f}%" y2="{100 * y_of(t):.2f}%"/>'
        f'<text class="tick" x="-8" y="{100 * y_of(t):.2f}%" dy="4" text-anchor="end">{t:g}</text>'
        for t in ticks(low, high)
    )
    for t, anchor in ((left, "start"), (right, "end")):
        grid += (
            f'<text class="tick" x="{100 * x_of(t):.0f}%" y="100%" dy="18" text-anchor="{anchor}">{number(t)}</text>'
        )

    def path(line: list[tuple[float, float]]) -> str:
        if len(line) == 1:
            line = [(left, line[0][1]), (left + across, line[0][1])]
        return " ".join(f"{1000 * x_of(x):.1f},{1000 * y_of(y):.1f}" for x, y in line)

    raw = f'<polyline class="stroke" points="{path(points)}"/>'
    if smooth != points:
        raw = f'<polyline class="raw" points="{path(points)}"/><polyline class="stroke" points="{path(smooth)}"/>'
    said = f"{title}: {number(ys[0])} at step {number(xs[0])}, {number(ys[-1])} at step {number(xs[-1])}"
    return (
        f'<div class="plot {colour_class(colour)}">'
        f'<svg role="img" width="100%" height="150"><title>{clean(said)}</title>'
        f'{grid}<line class="axis" x1="0" x2="100%" y1="100%" y2="100%"/>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" width="100%" height="100%">'
        f"{raw}</svg></svg></div>"
    )
