"""A graph of what was made of what, drawn in rows of boxes from the top down."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tigerjax.pages.charts import TEMPLATE
from tigerjax.pages.render import draw

if TYPE_CHECKING:
    from markupsafe import Markup

COLUMN, ROW = 178, 66  # px from one box to the next
BOX = (164, 42)  # px, width and height
MOST_OF_NAME, MOST_OF_DETAIL = 23, 27  # characters that a box has room for


class GraphNode(NamedTuple):
    """A box: its name, a line of detail, the CSS class of its kind, and the indices of the nodes it was made of."""

    name: str
    detail: str
    kind: str
    inputs: Sequence[int]


def graph(nodes: Sequence[GraphNode], title: str) -> "Markup":
    """The boxes and their arrows. Inputs come before what is made of them, and stand above it."""
    depth = _depths(nodes)
    columns, most = _columns(nodes, depth)
    arrows, boxes = [], []
    for i, node in enumerate(nodes):
        x, y = COLUMN * columns[i], ROW * depth[i]
        for j in node.inputs:
            x0, y0, x1 = COLUMN * columns[j] + BOX[0] / 2, ROW * depth[j] + BOX[1], x + BOX[0] / 2
            bend = (y + y0) / 2
            arrows.append(f"M{x0} {y0}C{x0} {bend} {x1} {bend} {x1} {y}")
        name, detail = node.name, node.detail
        if len(name) > MOST_OF_NAME:  # its end tells more than its beginning: folders stand before names
            name = "…" + name[-(MOST_OF_NAME - 1) :]
        if len(detail) > MOST_OF_DETAIL:
            detail = detail[: MOST_OF_DETAIL - 1] + "…"
        boxes.append({**node._asdict(), "x": x, "y": y, "short_name": name, "short_detail": detail})
    width, height = COLUMN * most - (COLUMN - BOX[0]) + 2, ROW * (max(depth) + 1) - (ROW - BOX[1]) + 2
    size = {"width": width, "height": height, "box": BOX}
    return draw(TEMPLATE, "graph", title=title, arrows=arrows, boxes=boxes, **size)


def _depths(nodes: Sequence[GraphNode]) -> list[int]:
    """The row of each node, counted from the top."""
    depth: list[int] = []
    for node in nodes:
        depth.append(1 + max((depth[i] for i in node.inputs), default=-1))
    for i, node in enumerate(nodes):  # a source stands just above its first user, so that arrows are short
        users = [depth[j] for j, other in enumerate(nodes) if i in other.inputs]
        if not node.inputs and users:
            depth[i] = min(users) - 1
    return depth


def _columns(nodes: Sequence[GraphNode], depth: Sequence[int]) -> tuple[dict[int, int], int]:
    """The column of each node, chosen to stand below its inputs, and the length of the longest row."""
    columns: dict[int, int] = {}
    rows = [[i for i, d in enumerate(depth) if d == row] for row in range(max(depth) + 1)]
    for row in rows:
        middle = {i: _mean([columns[j] for j in nodes[i].inputs if j in columns]) for i in row}
        for column, i in enumerate(sorted(row, key=lambda i: (middle[i], i))):
            columns[i] = column
    return columns, max(map(len, rows))


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0
