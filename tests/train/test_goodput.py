"""Where the wall time of a run goes: items add up to it, over restarts too."""

import time

import pytest

from tigerjax.train.goodput import Goodput
from tigerjax.train.starting import Starting, process_began


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
    goodput = Goodput(starting=Starting(990.0, clock), last={}, clock=clock)
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
    first = Goodput(starting=Starting(1000.0, clock), last={}, clock=clock)
    spend(first, clock, "compile", 20.0)
    spend(first, clock, "steps", 80.0)
    last = first.record()
    clock.now += 50.0  # steps after the last checkpoint, a kill, a new machine
    second = Goodput(starting=Starting(clock.now, clock), last=last, clock=clock)
    clock.now += 5.0
    spend(second, clock, "compile", 10.0)
    spend(second, clock, "steps", 85.0)
    found = second.record()
    spent = {item: seconds for item, seconds in found["spent_s"].items() if seconds}
    assert spent == {"steps": 165.0, "start": 5.0, "compile": 30.0, "down": 50.0}
    assert sum(found["spent_s"].values()) == pytest.approx(clock.now - 1000.0)
    assert found["goodput"] == pytest.approx(165 / 250)


def test_a_start_is_itemised_once_and_its_items_are_said():
    clock = Clock()
    starting = Starting(995.0, clock)
    for item, seconds in (("hosts", 0.0), ("devices", 2.0), ("rows", 3.0), ("devices", 0.5), ("state", 7.0)):
        starting.at(item)
        clock.now += seconds
    starting.at("compile")
    goodput = Goodput(starting=starting, last={}, clock=clock)
    spend(goodput, clock, "data", 1.0)
    spend(goodput, clock, "compile", 4.0)
    wanted = {"imports": 5.0, "hosts": 0.0, "devices": 2.5, "rows": 3.0, "state": 7.0, "compile": 5.0}
    assert goodput.record()["start_s"] == wanted and "start_s" not in goodput.record()
    line = "first step after 22.5 s: imports 5.0, hosts 0.0, devices 2.5, rows 3.0, state 7.0, compile 5.0"
    assert starting.line() == line


def test_the_time_begins_with_the_process():
    assert 0 < time.time() - process_began() < 24 * 3600
