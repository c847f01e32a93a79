"""A save beside training: one at a time, and its error comes once."""

import threading

import pytest

from tigerjax.train.background import BackgroundSave


def test_a_save_has_ended_after_wait():
    done, saving = [], BackgroundSave("save", daemon=True)
    saving.wait()  # none has begun
    begun = threading.Event()
    saving.start(lambda: done.append(begun.wait()))
    begun.set()
    saving.wait()
    assert done == [True]


def test_an_error_of_a_save_is_raised_by_the_next_wait_and_only_once():
    saving = BackgroundSave("save", daemon=True)

    def full() -> None:
        raise OSError("disk full")

    saving.start(full)
    saving.settle()
    with pytest.raises(OSError, match="disk full"):
        saving.wait()
    saving.wait()
