"""Where the wall time of a run goes: items add up to it, over restarts too."""

import pytest

from tigerjax.train.goodput import Goodput


class Clock:
    """Time that goes on when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def spend(goodput: Goodput, clock: Clock, item: str, seconds: float) -> None:
    with goodput.spending(item):
        clock.now += seconds


def test_items_add_up_to_the_wall_time_and_steps_are_what_is_left():
    clock = Clock()
    goodput = Goodput(since=990.0, last={}, clock=clock)
    for item, seconds in (("data", 1.0), ("compile", 30.0), ("save", 4.0), ("data", 1.0), ("validation", 6.0)):
        spend(goodput, clock, item, seconds)
    clock.now += 53.0  # waiting for steps on the device: in no block
    found = goodput.record()
    assert found["spent_s"] == {
        "steps": 53.0, "start": 10.0, "compile": 30.0, "data": 2.0, "save": 4.0, "validation": 6.0, "down": 0.0,
    }  # fmt: skip
    assert found["goodput"] == pytest.approx(53 / 105) and found["time"] == clock.now
    assert goodput.waited() == 2.0


def test_a_restart_goes_on_counting_and_the_time_between_is_down():
    clock = Clock()
    first = Goodput(since=1000.0, last={}, clock=clock)
    spend(first, clock, "compile", 20.0)
    spend(first, clock, "steps", 80.0)
    last = first.record()
    clock.now += 50.0  # steps after the last checkpoint, a kill, a new machine
    second = Goodput(since=clock.now, last=last, clock=clock)
    clock.now += 5.0
    spend(second, clock, "compile", 10.0)
    spend(second, clock, "steps", 85.0)
    found = second.record()
    spent = {item: seconds for item, seconds in found["spent_s"].items() if seconds}
    assert spent == {"steps": 165.0, "start": 5.0, "compile": 30.0, "down": 50.0}
    assert sum(found["spent_s"].values()) == pytest.approx(clock.now - 1000.0)
    assert found["goodput"] == pytest.approx(165 / 250)
