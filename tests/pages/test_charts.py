"""Charts are as large as their figures, and numbers are worded for people."""

import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from tigerjax.pages.charts import MOST_VALUES, Bar, Dot, bars, curve, histogram, scatter, share_bars, smoothed, ticks
from tigerjax.pages.numbers import duration, number, standard_error


def test_a_bar_is_as_long_as_its_value_and_its_whisker_stays_on_the_scale():
    given = [Bar("a", -1.0, "-1", "sft"), Bar("b", 0.9, "0.9", "sft", 0.5)]
    svg = ET.fromstring(bars(given, -1.0, 1.0, scale=None))
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


@pytest.mark.parametrize(("points", "labels"), [([(10, 2.0)], 1), ([(10, 2.0), (11, 2.0)], 2)])
def test_a_curve_of_one_step_names_that_step_once(points, labels):
    assert len(re.findall(r">1[01]</text>", str(curve(points, "loss", "sft")))) == labels


def test_a_share_fills_its_part_of_a_track_of_100_percent():
    made = share_bars([Bar("wanted", 0.475, "47.50%", "wanted"), Bar("measured", 0.1, "10.00%", "measured")])
    rows = list(ET.fromstring(made))
    widths = [[e.attrib["width"] for e in row.iter("rect") if e.attrib["class"] == "fill"] for row in rows[:2]]
    assert widths == [["47.50%"], ["10.00%"]]
    assert [e.text for e in rows[2].iter("text")] == ["0%", "50%", "100%"]
    assert "scale" not in share_bars([Bar("wanted", 0.475, "47.50%", "wanted")], scale=False)


def test_the_axis_below_bars_has_the_unit_that_it_is_given():
    made = bars([Bar("a", 3.0, "3 s", "time")], 0.0, 3.0, scale=lambda value: f"{value:g} s")
    assert [e.text for e in ET.fromstring(made)[-1].iter("text")] == ["0 s", "1 s", "2 s", "3 s"]


def test_a_curve_names_its_axes_and_shows_its_values_under_the_pointer():
    made = ET.fromstring(curve([(float(i), 2.0 / i) for i in range(1, 201)], "made up", "sft", "nats"))
    assert {"step", "nats"} <= {e.text for e in made.iter("text")}
    strips = [e for e in made.iter("rect") if e.attrib["class"] == "hover"]
    shown = [strip.find("title").text for strip in strips]
    assert (
        2 < len(strips) <= MOST_VALUES + 1 and shown[0] == "step 1: 2.00 nats" and shown[-1] == "step 200: 0.0100 nats"
    )
    assert sum(float(s.attrib["width"].rstrip("%")) for s in strips) == pytest.approx(100, abs=0.5)
    lone = ET.fromstring(curve([(7.0, 1.0)], "made up", "sft"))
    assert [e.find("title").text for e in lone.iter("rect")] == ["step 7: 1.00"]


def texts(made: str, kind: str) -> list[str]:
    return [e.text.strip() for e in ET.fromstring(made).iter("text") if e.attrib["class"] == kind]


@pytest.mark.parametrize(("shares", "wanted"), [(True, "0%"), (False, "0")])
def test_no_axis_goes_below_zero_where_no_model_does(shares: bool, wanted: str):
    dots = [Dot("start", 0.0, 0.5), Dot("round 1", 0.0, 0.6)]
    written = texts(scatter(dots, "accuracy", "reward", shares=shares), "tick")
    assert wanted in written and not [text for text in written if text.startswith("-")]


def test_an_accuracy_axis_ends_at_100_percent():
    written = texts(scatter([Dot("a", 0.2, 0.5), Dot("b", 1.0, 0.6)], "accuracy", "reward", shares=True), "tick")
    assert "100%" in written and not {"110%", "120%"} & set(written)


def test_models_at_one_place_share_a_label_and_close_ones_stand_below_each_other():
    dots = [
        Dot("start", 5.0, 0.5, "start"),
        Dot("round 1", 5.0, 0.5),
        Dot("round 2", 5.2, 0.51),
        Dot("round 3", 9, 3.0),
    ]
    made = scatter(dots, "characters", "reward", shares=False)
    assert texts(made, "mark") == ["start, round 1", "round 2", "round 3"] and made.count("<circle") == 4
    marks = [e for e in ET.fromstring(made).iter("text") if e.attrib["class"] == "mark"]
    heights = [1.9 * float(e.attrib["y"].rstrip("%")) + float(e.attrib["dy"]) for e in marks[:2]]
    assert abs(heights[0] - heights[1]) >= 13


def test_a_scatter_plot_and_a_histogram_name_their_axes():
    made = scatter([Dot("a", 0.2, 0.5)], "held-out accuracy", "mean reward", shares=True)
    assert texts(made, "tick unit") == ["mean reward", "held-out accuracy"]
    units = {e.text for e in ET.fromstring(f"<p>{histogram([0.0], [1.0])}</p>").iter("text")}
    assert {"score, in standard deviations", "share of the answers", "0%", "100%"} <= units


def test_scores_that_are_all_the_same_stand_in_the_middle():
    made = histogram([0.531921] * 2, [0.531921] * 2)
    assert "0.531921<" not in made and "before, score" in made and ": 2 answers (100.0%)" in made


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
