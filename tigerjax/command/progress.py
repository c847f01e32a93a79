"""Progress of long work, on standard error: a bar on a terminal, elsewhere a line every ten seconds.

Work that takes less than five seconds shows nothing.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tigerjax.terminal import overwrite

BAR = 24  # characters
LIVE_SECONDS, PLAIN_SECONDS, SHORT_SECONDS = 0.2, 10.0, 5.0


def show_progress(what: str, unit: str = "") -> Callable[[int, int], None]:
    """A function that shows progress when it is called with (done, total). `total` is 0 where it is not known.

    With the unit "GB" both are bytes, shown in MB or kB when the total is below one GB or MB. The rate and the
    time left count from the first call on, since what an interrupted run had done before says nothing about the speed
    of this one.
    """
    started = time.monotonic()
    last, first, silent = [started], [(-1, started)], [True]

    def show(done: int, total: int) -> None:
        now, live = time.monotonic(), sys.stderr.isatty()
        if first[0][0] < 0:
            first[0] = (done, now) if done < total or not total else (0, started)
        over = 0 < total <= done
        if now - started < SHORT_SECONDS and (over or not live or now - started < 1) and silent[0]:
            return
        if not over and now - last[0] < (LIVE_SECONDS if live else PLAIN_SECONDS):
            return
        last[0], silent[0] = now, False
        scale, shown = _scale(total) if unit == "GB" else (1, unit)
        form = "{:,.2f}" if shown == "GB" else "{:,.0f}"
        amounts = "/".join(form.format(n / scale) for n in (done, total) if n or not total)
        words = [f"{what} {amounts if total else form.format(done / scale)} {shown}".rstrip()]
        if total:
            words.append(f"({done / total:.0%})")
        if live and total:
            words.insert(0, f"[{'#' * int(BAR * done / total):{BAR}}]")
        speed = (done - first[0][0]) / max(now - first[0][1], 1e-9)
        if speed > 0:
            words.append(f"{_rate(speed / scale)}{f' {shown}' if unit == 'GB' else ''}/s")
            if total:
                words.append(f"in {now - started:.0f} s" if over else f"{(total - done) / speed:.0f} s left")
        end = "\r" if live and not over else "\n"
        overwrite(" ".join(words), end)

    return show


@contextlib.contextmanager
def show_elapsed(what: str) -> Iterator[None]:
    """Shows how long a block has taken so far. It is for work that cannot report how much is done."""
    started, over, live = time.monotonic(), threading.Event(), sys.stderr.isatty()

    def repeat() -> None:
        while not over.wait(1 if live else PLAIN_SECONDS):
            show("…", "\r" if live else "\n")

    def show(mark: str, end: str) -> None:
        spent = f"{what}{mark} {time.monotonic() - started:.0f} s"
        overwrite(spent, end)

    thread = threading.Thread(target=repeat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        if time.monotonic() - started >= SHORT_SECONDS:
            show("… done in", "\n")
        elif live:
            overwrite("", "")


def _scale(total: int) -> tuple[float, str]:
    """In what so many bytes are shown, so that a small file is not 0 MB; 0 is a total that is not known."""
    if 0 < total < 1e6:
        return 1e3, "kB"
    return (1e6, "MB") if 0 < total < 1e9 else (1e9, "GB")


def _rate(speed: float) -> str:
    """A number with at least three significant digits: 1,234, 12.3, 0.0123."""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.3g}"
