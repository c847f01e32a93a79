"""Whether work grows in proportion to its input, measured on a machine that may do other work too."""

import gc
import time
from collections.abc import Callable

LIMIT = 8  # times the time for four times the input: 4 where it is linear, 16 where it is quadratic
LEAST_S = 0.5  # below this a measured time is mostly chance
TRIES = 3  # one measurement may hold what other tests left running in this process; their least is the work's own


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """`work(n)` does something with an input of n parts. It is done with a quarter of `size` and with `size`.

    The time is that of this process's CPU alone, and the shorter input is the measure of the longer one. What the
    process holds already is hidden from the garbage collector, whose time would grow with the tests that ran before."""

    def seconds(parts: int) -> float:
        began = time.process_time()
        work(parts)
        return time.process_time() - began

    work(1)  # loads what it needs
    gc.collect()
    gc.freeze()
    try:
        quarter, whole = seconds(size // 4), seconds(size)
        for _ in range(TRIES - 1):
            if whole < LIMIT * quarter + LEAST_S:
                break
            whole = min(whole, seconds(size))
    finally:
        gc.unfreeze()
    assert whole < LIMIT * quarter + LEAST_S, (quarter, whole)
