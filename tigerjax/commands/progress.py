"""How far long work has come, on stderr: a bar that overwrites itself on a terminal, else a line every ten seconds."""

import sys
import time
from collections.abc import Callable

BAR = 24  # characters
LIVE_SECONDS, PLAIN_SECONDS = 0.2, 10.0


def show_progress(what: str, unit: str = "") -> Callable[[int, int], None]:
    """A function of (done, all). With unit "GB" both are bytes, and the speed and the time left are said."""
    started = time.monotonic()
    last, first = [started], [-1]

    def say(done: int, total: int) -> None:
        now, live = time.monotonic(), sys.stderr.isatty()
        if first[0] < 0:
            first[0] = done  # what an interrupted run had done says nothing of this one's speed
        if done < total and now - last[0] < (LIVE_SECONDS if live else PLAIN_SECONDS):
            return
        last[0] = now
        share = done / max(total, 1)
        amount = f"{done / 1e9:.2f}/{total / 1e9:.2f} GB" if unit == "GB" else f"{done:,}/{total:,} {unit}".rstrip()
        words = [f"{what} {amount} ({share:.0%})"]
        if live:
            words.insert(0, f"[{'#' * int(BAR * share):{BAR}}]")
        speed = (done - first[0]) / max(now - started, 1e-9)
        if 0 < done < total and speed > 0:
            words.append(f"{(total - done) / speed:.0f} s left")
        end = "\r" if live and done < total else "\n"
        print(" ".join(words) + ("\033[K" if live else ""), end=end, file=sys.stderr, flush=True)

    return say
