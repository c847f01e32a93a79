"""Charts as inline SVG. Functions here turn figures into places on the page; `charts.html` draws them.

Places are in percent of the width, or in a nested viewBox that stretches without its strokes, so letters keep their
size on a narrow screen. Colours are CSS classes (`c-sft`), so one picture serves light and dark.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tigerjax.pages.numbers import number, percent
from tigerjax.pages.render import draw

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "pages/charts.html"
MOST_POINTS = 400  # of a curve; more than the page has pixels for
SPAN = 8  # of a curve, the share of its points that smoothing looks back over is 1 / SPAN
BINS = 16  # of a histogram
MOST_VALUES = 40  # places of a curve that show their value under the pointer
LINE = 14  # px from one line of letters to the next
SCATTER_HEIGHT = 190  # px, as in the template
NEAR = 35  # percent of the width that a label may take
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


def bars(given: Sequence[Bar], low: float, high: float, *, scale: Callable[[float], str] | None = number) -> "Markup":
    """Horizontal bars from zero on the scale low..high; the whisker is +- `error`.

    `scale` writes the figures of the axis below them; None leaves the axis out.
    """
    span = (high - low) or 1.0

    def at(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / span)), 2)

    zero, drawn = at(0.0), []
    for bar in given:
        end = at(bar.value if math.isfinite(bar.value) else 0.0)
        whisker = (at(bar.value - bar.error), at(bar.value + bar.error)) if bar.error > 0 else None
        place = {"left": min(zero, end), "width": f"{abs(end - zero):.2f}", "whisker": whisker}
        drawn.append({"label": bar.label, "text": bar.text, "colour": colour_class(bar.colour), **place})
    marks = [] if scale is None else [(at(t), scale(t)) for t in ticks(low, high)]
    written = [(x, text, "start" if x < 5 else "end" if x > 95 else "middle") for x, text in marks]
    return draw(TEMPLATE, "bars", bars=drawn, zero=zero if low < 0 < high else None, scale=written)


def share_bars(given: Sequence[Bar], *, scale: bool = True) -> "Markup":
    """Horizontal bars of shares: their track is the whole, from 0 to 100%."""
    return bars(given, 0.0, 1.0, scale=_whole_percent if scale else None)


def _whole_percent(share: float) -> str:
    return percent(share, 0)


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


def curve(points: Sequence[Point], title: str, colour: str, unit: str = "") -> "Markup":
    """A line over steps with its own vertical scale, raw and smoothed; points that are not finite are left out.

    The pointer shows the step and the value at up to MOST_VALUES places.
    """
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
        unit=unit,
        levels=[(f"{100 * y_of(t):.2f}", f"{t:,g}") for t in ticks(low, high)],
        ends=[
            (f"{100 * x_of(t):.0f}", number(t), anchor)
            for t, anchor in [(left, "start"), (right, "end")][: 2 if left < right else 1]  # one step has one label
        ],
        raw=path(points),
        smooth=path(smooth) if smooth != points else None,
        values=_strips(
            [(100 * x_of(x), f"step {number(x)}: {number(ys[i])} {unit}".rstrip()) for i, x in enumerate(xs)]
        ),
    )


def _strips(values: Sequence[tuple[float, str]]) -> list[tuple[str, str, str]]:
    """(left, width, text) of strips side by side in percent; each holds one of at most MOST_VALUES values."""
    every = math.ceil(len(values) / MOST_VALUES)
    shown = [*values[:-1][::every], values[-1]]
    borders = [0.0, *((a + b) / 2 for (a, _), (b, _) in itertools.pairwise(shown)), 100.0]
    return [
        (f"{left:.2f}", f"{right - left:.2f}", text)
        for (left, right), (_, text) in zip(itertools.pairwise(borders), shown, strict=True)
    ]


def histogram(before: Sequence[float | None], after: Sequence[float | None]) -> "Markup":
    """Two columns per bin on one scale of equal bins; values that are not finite are left out."""
    sides = {"before": _finite(before), "after": _finite(after)}
    both = [v for values in sides.values() for v in values]
    if not both:
        return draw(TEMPLATE, "nothing", why="no finite score")
    low, high = min(both), max(both)
    if low == high:
        low, high = low - 0.5, high + 0.5
    span = high - low
    shares, numbers = {}, {}
    for name, values in sides.items():
        counts = [0] * BINS
        for value in values:
            counts[min(BINS - 1, int(BINS * (value - low) / span))] += 1
        shares[name], numbers[name] = [n / max(len(values), 1) for n in counts], counts
    top, width, columns = max(max(s) for s in shares.values()), 100 / BINS, []
    for side, (name, heights) in enumerate(shares.items()):
        for i, share in enumerate(heights):
            tall, x = 100 * share / top, width * (i + 0.08 + 0.42 * side)
            ends = f"{number(low + span * i / BINS)} to {number(low + span * (i + 1) / BINS)}"
            text = f"{name}, score {ends}: {number(numbers[name][i])} answers ({percent(share)})"
            place = {"x": f"{x:.2f}", "y": f"{100 - tall:.2f}", "height": f"{tall:.2f}"}
            columns.append({"side": name, "text": text, **place})
    return draw(
        TEMPLATE,
        "histogram",
        columns=columns,
        column_width=f"{0.42 * width:.2f}",
        levels=[(f"{100 - float(x):.1f}", text) for x, text in _marks(ticks(0.0, top, most=3), 0.0, top, True)],
        ticks=_marks(ticks(low, high, most=6), low, span, False),
        sides={k: f"n = {number(len(v))}, mean {number(sum(v) / len(v))}" if v else "none" for k, v in sides.items()},
    )


def scatter(dots: Sequence[Dot], across: str, up: str, *, shares: bool) -> "Markup":
    """A dot per model; `across` and `up` say what its places count. With `shares`, `across` is written in percent.

    Neither scale goes below 0 when no dot does, and a share ends at 100%.
    """
    dots = [dot for dot in dots if math.isfinite(dot.x) and math.isfinite(dot.y)]
    if not dots:
        return draw(TEMPLATE, "nothing", why="no finite value")
    left, width = _padded([dot.x for dot in dots], 1.0 if shares else math.inf)
    low, height = _padded([dot.y for dot in dots], math.inf)
    drawn: list[dict[str, Any]] = []
    for dot in dots:
        x, y = 100 * (dot.x - left) / width, 100 - 100 * (dot.y - low) / height
        text = f"{dot.label}: {across} {percent(dot.x) if shares else number(dot.x)}, {up} {number(dot.y)}"
        drawn.append({"label": dot.label, "text": text, "kind": dot.kind, "at": (x, y)})
    _place_labels(drawn)
    return draw(
        TEMPLATE,
        "scatter",
        dots=[dot | {"x": f"{dot['at'][0]:.2f}", "y": f"{dot['at'][1]:.2f}"} for dot in drawn],
        levels=[(f"{100 - 100 * (t - low) / height:.2f}", f"{t:,g}") for t in ticks(low, low + height)],
        ticks=_marks(ticks(left, left + width), left, width, shares),
        across=across,
        up=up,
    )


def _marks(values: Sequence[float], start: float, length: float, shares: bool) -> list[tuple[str, str]]:
    """(place in percent, text) of the figures of an axis; shares have as many digits as tell them apart."""
    texts = [f"{value:,g}" for value in values]
    for digits in (2, 1, 0) if shares else ():
        fewer = [percent(value, digits) for value in values]
        texts = fewer if len(set(fewer)) == len(values) else texts
    return [(f"{100 * (value - start) / length:.1f}", text) for value, text in zip(values, texts, strict=True)]


def _place_labels(dots: Sequence[dict[str, Any]]) -> None:
    """Gives each dot the place of its label, so that no label stands on another one.

    Dots at the same place share one label. Labels that would touch stand below each other.
    """
    same: dict[tuple[float, float], list[dict[str, Any]]] = {}
    for dot in dots:
        same.setdefault((round(dot["at"][0]), round(dot["at"][1])), []).append(dot)
    taken: list[Point] = []
    for group in same.values():
        first, *others = group
        x, y = first["at"]
        first["label"] = ", ".join(dot["label"] for dot in group)
        # A label stays inside the plot.
        first["anchor"], first["aside"] = ("end", -9) if x > 60 else ("start", 9)
        down = -6
        while any(abs(x - a) < NEAR and abs(SCATTER_HEIGHT * y / 100 + down - b) < LINE for a, b in taken):
            down += LINE
        taken.append((x, SCATTER_HEIGHT * y / 100 + down))
        first["down"] = down
        for dot in others:
            dot.update(label="", anchor="start", aside=0, down=0)


def _padded(values: Sequence[float], top: float) -> Point:
    """(start, length) of a scale on which the values leave some room at both ends."""
    low, high = min(values), max(values)
    pad = 0.15 * (high - low) or 0.5
    start = max(0.0, low - pad) if low >= 0 else low - pad
    return start, min(top, high + pad) - start


def _finite(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None and math.isfinite(v)]
