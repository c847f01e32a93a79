"""Charts of several lines on one scale, inside a page or as a picture of their own."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigerjax.files import paths
from tigerjax.pages.charts import TEMPLATE, ticks
from tigerjax.pages.numbers import number
from tigerjax.pages.render import draw

if TYPE_CHECKING:
    from markupsafe import Markup

MOST_LINES = 6  # as many colours as style.css has for parts
Line = Sequence[tuple[float, float]]
Plot = dict[str, Any]
"""What `plot` made: lines with their places on the page."""


def plot(
    given: Mapping[str, Line],
    across: str,
    up: str,
    *,
    marks: Sequence[float] = (),
    write: Callable[[float], str] = number,
    bounds: tuple[float, float] | None = None,
) -> Plot:
    """Lines by name. With `marks` the horizontal scale is a logarithm to base 2, with figures at them; without, it is
    linear with round figures.

    `across` and `up` say what the axes count, `write` words a figure of the vertical one, and `bounds` are its ends
    (None: around the points). Points that are not finite are left out.
    """
    assert len(given) <= MOST_LINES, list(given)
    scale: Callable[[float], float] = math.log2 if marks else float
    finite = {
        name: [(x, y) for x, y in line if (x > 0 or not marks) and math.isfinite(y)] for name, line in given.items()
    }
    xs = [scale(x) for line in finite.values() for x, _ in line] + [scale(x) for x in marks] or [0.0]
    ys = [y for line in finite.values() for _, y in line] or [0.0]
    left, width = min(xs), (max(xs) - min(xs)) or 1.0
    pad = 0.06 * (max(ys) - min(ys)) or 0.5
    low, high = bounds or (min(ys) - pad, max(ys) + pad)

    def place(x: float, y: float) -> tuple[float, float]:
        return (scale(x) - left) / width, (high - y) / (high - low)

    drawn = []
    for name, line in finite.items():
        places = [place(x, y) for x, y in line]
        texts = [f"{name}: {across} {number(x)}, {up} {write(y)}" for x, y in line]
        drawn.append(
            {
                "name": name,
                "points": " ".join(f"{1000 * x:.1f},{1000 * y:.1f}" for x, y in places),
                "dots": [(f"{100 * x:.2f}", f"{100 * y:.2f}", t) for (x, y), t in zip(places, texts, strict=True)],
            }
        )
    below = [(x, f"{x:g}x") for x in marks] or [(x, number(x)) for x in ticks(left, left + width)]
    return {
        "lines": drawn,
        "levels": [(f"{100 * place(1, t)[1]:.2f}", write(t)) for t in ticks(low, high)],
        "ticks": [(f"{100 * place(x, low)[0]:.2f}", text) for x, text in below],
        "across": across,
        "up": up,
    }


def lines(given: Plot) -> "Markup":
    """A plot inside a page, with its legend below."""
    return draw(TEMPLATE, "lines", plot=given)


def write_picture(path: Path, panels: Sequence[tuple[str, Plot]], columns: int) -> None:
    """Writes titled plots of the same lines as one SVG file, `columns` in a row, with one legend.

    A page of documentation shows it as a picture. It has the colours of our pages in light and dark.
    """
    paths.write_text(path, str(draw(TEMPLATE, "picture", panels=list(panels), columns=columns)))
