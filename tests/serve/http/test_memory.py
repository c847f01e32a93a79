"""Ten thousand requests leave no memory behind."""

import gc
from pathlib import Path

import pytest

REQUESTS = 10_000
MOST_GROWTH = 32e6
"""Bytes between the middle and the end. What is kept of each request would be some kilobytes, so 5,000 of them more
than this; an allocator's own swings are below it."""


def resident() -> float:
    """Bytes of this process that lie in memory."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096.0


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_requests(live):
    """A long text in each, half of them refused, a tenth of them streams that the client leaves in their midst."""

    def asked(k: int) -> None:
        body = {"messages": [{"role": "user", "content": f"{k:05d}" + "x" * 60}], "max_tokens": 2}
        if k % 10 == 0:
            with live.http.stream("POST", "/v1/chat/completions", json=body | {"stream": True}) as stream:
                next(stream.iter_raw())
        elif k % 2 == 0:
            assert live.post("/v1/chat/completions", json=body).status_code == 200
        else:
            wrong = {"messages": [{"role": "user", "content": "x" * 4000}], str(k): 1}
            refused = live.post("/v1/chat/completions", json=wrong)
            assert refused.status_code == 400

    for k in range(REQUESTS // 2):
        asked(k)
    middle = resident()
    for k in range(REQUESTS // 2, REQUESTS):
        asked(k)
    grown = resident() - middle
    assert grown < MOST_GROWTH, grown
