"""Charts as inline SVG. Functions here turn figures into places on the page; `charts.html` draws them.

Places are in percent of the width, or in a nested viewBox that stretches without its strokes, so letters keep their
size on a narrow screen. Colours are CSS classes (`c-sft`), so one picture serves light and dark.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tigerjax.pages.numbers import number, percent
from tigerjax.pages.render import draw

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "pages/charts.html"
MOST_POINTS = 400  # of a curve; more than the page has pixels for
SPAN = 8  # of a curve, the share of its points that smoothing looks back over is 1 / SPAN
BINS = 16  # of a histogram
Point = tuple[float, float]


class Bar(NamedTuple):
    """`text` is the figure in words; `error` is half the length of the whisker, in the unit of `value`."""

    label: str
    value: float
    text: str
    colour: str
    error: float = 0.0


class Dot(NamedTuple):
    """A point of a scatter plot; `kind` is a CSS class of `dot`: "start", "refused" or "" for a plain one."""

    label: str
    x: float
    y: float
    kind: str = ""


def colour_class(name: str) -> str:
    return "c-" + "".join(c if c.isalnum() else "-" for c in name.lower() if c.isascii())


def bars(given: Sequence[Bar], low: float, high: float) -> "Markup":
    """Horizontal bars from zero on the scale low..high; the whisker is +- `error`."""
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / span)), 2)

    zero, drawn = at(0.0), []
    for bar in given:
        end = at(bar.value if math.isfinite(bar.value) else 0.0)
        whisker = (at(bar.value - bar.error), at(bar.value + bar.error)) if bar.error > 0 else None
        place = {"left": min(zero, end), "width": f"{abs(end - zero):.2f}", "whisker": whisker}
        drawn.append({"label": bar.label, "text": bar.text, "colour": colour_class(bar.colour), **place})
    return draw(TEMPLATE, "bars", bars=drawn, zero=zero if low < 0 < high else None)


def stacked(parts: Mapping[str, float], texts: Mapping[str, str]) -> "Markup":
    """One bar cut into shares of its sum, with a legend below; `texts` are the figures in words."""
    total = sum(parts.values()) or 1.0
    left, pieces = 0.0, []
    for name, value in parts.items():
        width = 100 * value / total
        pieces.append({"name": name, "text": texts[name], "left": f"{left:.2f}", "width": f"{width:.2f}"})
        left += width
    return draw(TEMPLATE, "stacked", pieces=pieces)


def ticks(low: float, high: float, most: int = 4) -> list[float]:
    """At most `most` + 1 round numbers inside low..high, evenly apart by 1, 2 or 5 times a power of ten."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, first + most + 1) if i * step <= high + 1e-9 * step]


def smoothed(points: Sequence[Point]) -> list[Point]:
    """The running mean of a line with weights that fall off over an eighth of its points; few points stay as raw."""
    keep = 1 - 2 / (max(len(points) / SPAN, 1) + 1)
    total, weight, out = 0.0, 0.0, []
    for x, y in points:
        total, weight = keep * total + y, keep * weight + 1
        out.append((x, total / weight))
    return out


def curve(points: Sequence[Point], title: str, colour: str) -> "Markup":
    """A line over steps with its own vertical scale, raw and smoothed; points that are not finite are left out."""
    points = [(float(x), float(y)) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    if not points:
        return draw(TEMPLATE, "nothing", why="no finite value was logged")
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

    def path(line: Sequence[Point]) -> str:
        if len(line) == 1:
            line = [(left, line[0][1]), (left + across, line[0][1])]
        return " ".join(f"{1000 * x_of(x):.1f},{1000 * y_of(y):.1f}" for x, y in line)

    return draw(
        TEMPLATE,
        "curve",
        title=f"{title}: {number(ys[0])} at step {number(xs[0])}, {number(ys[-1])} at step {number(xs[-1])}",
        colour=colour_class(colour),
        levels=[(f"{100 * y_of(t):.2f}", f"{t:g}") for t in ticks(low, high)],
        ends=[(f"{100 * x_of(t):.0f}", number(t), anchor) for t, anchor in ((left, "start"), (right, "end"))],
        raw=path(points),
        smooth=path(smooth) if smooth != points else None,
    )


def histogram(before: Sequence[float | None], after: Sequence[float | None]) -> "Markup":
    """Two columns per bin on one scale of equal bins; values that are not finite are left out."""
    sides = {"before": _finite(before), "after": _finite(after)}
    both = [v for values in sides.values() for v in values]
    if not both:
        return draw(TEMPLATE, "nothing", why="no finite score")
    low, high = min(both), max(both)
    span = (high - low) or 1.0
    shares = {}
    for name, values in sides.items():
        counts = [0] * BINS
        for value in values:
            counts[min(BINS - 1, int(BINS * (value - low) / span))] += 1
        shares[name] = [n / max(len(values), 1) for n in counts]
    top, width, columns = max(max(s) for s in shares.values()), 100 / BINS, []
    for side, (name, heights) in enumerate(shares.items()):
        for i, share in enumerate(heights):
            tall, x = 100 * share / top, width * (i + 0.08 + 0.42 * side)
            columns.append({"side": name, "x": f"{x:.2f}", "y": f"{100 - tall:.2f}", "height": f"{tall:.2f}"})
    return draw(
        TEMPLATE,
        "histogram",
        columns=columns,
        column_width=f"{0.42 * width:.2f}",
        ticks=[(f"{100 * (t - low) / span:.1f}", f"{t:g}") for t in ticks(low, high, most=8)],
        sides={k: f"n = {number(len(v))}, mean {number(sum(v) / len(v))}" if v else "none" for k, v in sides.items()},
    )


def scatter(dots: Sequence[Dot], *, shares: bool) -> "Markup":
    """A dot per model, its mean reward upwards; with `shares`, what goes to the right is written in percent."""
    dots = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if not dots:
        return draw(TEMPLATE, "nothing", why="no finite value")
    (left, across), (low, up) = _padded([dot.x for dot in dots]), _padded([dot.y for dot in dots])
    write_x = percent if shares else number
    drawn: list[dict[str, Any]] = []
    for dot in dots:
        x, y = 100 * (dot.x - left) / across, 100 - 100 * (dot.y - low) / up
        anchor, aside = ("end", -9) if x > 60 else ("start", 9)  # a label stays inside the plot
        text = f"{dot.label}: {write_x(dot.x)}, reward {number(dot.y)}"
        place = {"x": f"{x:.2f}", "y": f"{y:.2f}", "anchor": anchor, "aside": aside}
        drawn.append({"label": dot.label, "text": text, "kind": dot.kind, **place})
    return draw(
        TEMPLATE,
        "scatter",
        dots=drawn,
        levels=[(f"{100 - 100 * (t - low) / up:.2f}", f"{t:g}") for t in ticks(low, low + up)],
        ticks=[(f"{100 * (t - left) / across:.1f}", write_x(t)) for t in ticks(left, left + across)],
    )


def _padded(values: Sequence[float]) -> Point:
    """(start, length) of a scale on which the values leave some room at both ends."""
    pad = 0.15 * (max(values) - min(values)) or 0.5
    return min(values) - pad, max(values) - min(values) + 2 * pad


def _finite(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]
