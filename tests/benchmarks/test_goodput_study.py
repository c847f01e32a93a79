"""The simulation of a run that fails agrees with the closed form, and its saves count as they should."""

import math
from pathlib import Path

import pytest

RUNS, DAYS = 20, 20.0


@pytest.fixture
def goodput(monkeypatch):
    """The script."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    for name in ("tpu", "studies"):
        monkeypatch.syspath_prepend(str(folder / name))
    import goodput

    return goodput


@pytest.mark.parametrize("hours", [0.5, 3.0, 20.0])
def test_one_tier_of_saves_has_the_goodput_of_the_formula(goodput, hours):
    saves = goodput.Saves(step_s=5.0, every=60, save_s=10.0, write_s=0.0)
    faults = goodput.Faults(mean_s=hours * 3600, restart_s=400.0)
    mean, deviation = goodput.goodput(saves, faults, DAYS, RUNS)
    # Four errors of the mean. The formula has whole intervals, and a run ends within one: a thousandth at most here.
    assert mean == pytest.approx(goodput.formula(saves, faults), abs=4 * deviation / math.sqrt(RUNS) + 1e-3)


def test_the_interval_is_the_best_one_of_the_formula(goodput):
    faults = goodput.Faults(mean_s=4 * 3600.0, restart_s=300.0)

    def at(seconds):
        return goodput.formula(goodput.Saves(1.0, round(seconds), 20.0, 0.0), faults)

    best = goodput.interval(20.0, faults.mean_s)
    assert at(best) > max(at(0.8 * best), at(1.25 * best))


def test_a_save_counts_only_when_it_is_whole(goodput):
    faults = goodput.Faults(mean_s=3600.0, restart_s=60.0)
    at_once = goodput.Saves(step_s=5.0, every=60, save_s=0.0, write_s=0.0)
    found = [goodput.goodput(at_once._replace(write_s=s), faults, DAYS, RUNS)[0] for s in (0.0, 200.0, 600.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] - found[1] == pytest.approx(200 / 3600, abs=0.02)  # each failure loses so many seconds more


def test_local_saves_that_every_failure_takes_help_nothing(goodput):
    faults = goodput.Faults(mean_s=3600.0, restart_s=60.0, lost=1.0)
    bucket = goodput.Saves(step_s=5.0, every=60, save_s=2.0, write_s=100.0)
    both = bucket._replace(local_every=6)
    without = goodput.goodput(bucket, faults, DAYS, RUNS)[0]
    assert goodput.goodput(both, faults, DAYS, RUNS)[0] == pytest.approx(without, abs=0.01)
    assert goodput.goodput(both, faults._replace(lost=0.0), DAYS, RUNS)[0] > without + 0.03


def test_a_run_without_failures_loses_its_saves_only(goodput):
    saves = goodput.Saves(step_s=5.0, every=20, save_s=1.0, write_s=0.0, local_every=10, local_s=0.5)
    found = goodput.simulated(saves, goodput.Faults(mean_s=1e12, restart_s=60.0), 1.0, 0)
    assert found == pytest.approx(100 / 102, abs=1e-3)
