"""A command that takes too long is ended and said, and the next one is left alone."""

import signal

import ending
import pytest


def test_a_command_that_does_not_end_is_ended_and_the_next_one_is_not(monkeypatch):
    def main(words):
        while words == ["hang"]:
            sum(range(1000))
        return 0

    monkeypatch.setattr(ending, "main", main)
    before = signal.getsignal(signal.SIGPROF)
    with pytest.raises(AssertionError, match="hang: more than"):
        ending.run(["hang"], seconds=0.2)
    assert [ending.run(["other"], seconds=20).code for _ in range(20)] == [0] * 20
    assert signal.getsignal(signal.SIGPROF) == before
