"""Units that are looked for letter by letter: the hits of the vectorised search are those of the plain table."""

import numpy as np
import pytest

from tigerjax.text.short_units import _aligned, _once


def fewest_edits(unit: np.ndarray, text: np.ndarray, start: int, edits: int) -> int:
    """With how few edits the unit becomes a part of the text that begins at start +- `edits`."""
    width, far = 2 * edits + 1, 1000
    cells = [0] * width
    for i, letter in enumerate(unit):
        new = []
        for d in range(width):
            at = start + i + d - edits
            same = 0 <= at < len(text) and text[at] == letter
            options = [cells[d] + (not same), (cells[d + 1] if d + 1 < width else far) + 1, (new[-1] if d else far) + 1]
            new.append(min(options))
        cells = new
    return min(cells)


@pytest.mark.parametrize("edits", [1, 3])
def test_the_fewest_edits_are_those_of_the_plain_table(edits):
    rng = np.random.default_rng(edits)
    text = rng.integers(0, 4, 300).astype(np.uint32)
    sizes_of = np.array([9, 14, 30, 5])
    units = np.zeros((4, 30), np.uint32)
    for row, size in enumerate(sizes_of):
        at = 40 * row + 17
        units[row, :size] = text[at : at + size]
        units[row, rng.choice(size, edits, replace=False)] = 9  # letters that no text has
    rows, starts = (a.ravel() for a in np.meshgrid(np.arange(4), np.arange(-2, 290), indexing="ij"))
    fewest, ends = _aligned(units, rows, sizes_of[rows], text, starts, edits)
    want = np.array(
        [fewest_edits(units[r, : sizes_of[r]], text, int(s), edits) for r, s in zip(rows, starts, strict=True)]
    )
    stands = want <= edits
    assert stands.any() and not stands.all()
    np.testing.assert_array_equal(fewest <= edits, stands)
    np.testing.assert_array_equal(fewest[stands], want[stands])
    apart = ends - starts - sizes_of[rows]
    assert (np.abs(apart[stands]) <= edits).all()


@pytest.mark.parametrize("far", [1, 1 << 58])  # together they fit into one number, and they do not
def test_each_place_once_and_in_order(far):
    places = np.array([[3, 1, 3, 1, 3], [2, 2, 2, 7, 2], [-5, 4 * far, -5, 0, 8 * far]])
    np.testing.assert_array_equal(_once(places), np.unique(places, axis=1))
    assert _once(places[:, :0]).shape == (3, 0)
