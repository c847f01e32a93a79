"""Charts are as large as their figures, and numbers are worded for people."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from tigerjax.pages.charts import Bar, bars, curve, histogram, smoothed, ticks
from tigerjax.pages.numbers import duration, number, standard_error


def test_a_bar_is_as_long_as_its_value_and_its_whisker_stays_on_the_scale():
    svg = ET.fromstring(bars([Bar("a", -1.0, "-1", "sft"), Bar("b", 0.9, "0.9", "sft", 0.5)], -1.0, 1.0))
    first, second = ([e.attrib for e in row.iter("rect")][1] for row in svg)
    assert (first["x"], first["width"]) == ("0.0%", "50.00%")
    assert (second["x"], second["width"]) == ("50.0%", "45.00%")
    whisker = next(e.attrib for e in svg.iter("line") if e.attrib["class"] == "whisker")
    assert (whisker["x1"], whisker["x2"]) == ("70.0%", "100.0%")


def test_a_curve_falls_on_the_page_as_the_loss_falls_and_keeps_its_last_point():
    points = [(float(i), 5.0 - i / 1000) for i in range(2001)]
    line = next(ET.fromstring(curve(points, "made up", "base")).iter("polyline")).attrib["points"]
    pairs = [tuple(map(float, p.split(","))) for p in line.split()]
    assert len(pairs) <= 401 and pairs[0][0] == 0.0 and pairs[-1][0] == 1000.0
    assert all(a[1] < b[1] for a, b in itertools.pairwise(pairs))
    assert "no finite value" in curve([(0.0, float("nan"))], "made up", "base")


def test_ticks_are_round_and_inside():
    assert ticks(0.27, 0.73) == [0.4, 0.6]
    assert ticks(1.9, 8.1) == [2.0, 4.0, 6.0, 8.0]
    assert ticks(3.0, 3.0) == [3.0]


def test_figures_are_worded_for_people():
    assert [number(x) for x in (1111111, 0.5, 1.11e-5, 0, float("nan"))] == [
        "1,111,111",
        "0.500",
        "1.11e-05",
        "0",
        "nan",
    ]
    assert [duration(s) for s in (1.11, 59.4, 59.6, 3661)] == ["1.1 s", "59 s", "1 min 00 s", "1 h 01 min"]
    assert standard_error(0.5, 100) == pytest.approx(0.05) and standard_error(0.5, 0) == 0.0


def test_a_column_is_as_tall_as_its_share_of_the_fullest():
    made = histogram([0.0] * 3 + [1.0], [1.0] * 4)
    tall = {side: re.findall(rf'class="{side}"[^>]* height="([^"]+)%"', made) for side in ("before", "after")}
    assert tall["before"][0] == "75.00" and tall["before"][-1] == "25.00" and tall["after"][-1] == "100.00"
    assert {*tall["before"][1:-1], *tall["after"][:-1]} == {"0.00"}


def test_smoothing_keeps_a_constant_and_quiets_noise():
    assert smoothed([(float(i), 3.0) for i in range(50)]) == [(float(i), pytest.approx(3.0)) for i in range(50)]
    noisy = [(float(i), float(i % 2)) for i in range(200)]
    assert max(abs(y - 0.5) for _, y in smoothed(noisy)[50:]) < 0.05
    assert smoothed(noisy[:4]) == noisy[:4]
