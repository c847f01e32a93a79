"""Ten thousand requests leave no memory behind."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
REQUESTS = 10_000
MOST_GROWTH = 32e6
"""Bytes between the middle and the end. What is kept of each request would be some kilobytes, so 5,000 of them more
than this; an allocator's own swings are below it."""


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_requests(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "speed"))
    from server_memory import TENTHS, watched

    found = watched(REQUESTS)
    assert found.statuses == {"200": REQUESTS // 2, "400": 4 * REQUESTS // 10, "left": REQUESTS // 10}
    assert found.rss_bytes[-1] - found.rss_bytes[TENTHS // 2] < MOST_GROWTH, found.rss_bytes
