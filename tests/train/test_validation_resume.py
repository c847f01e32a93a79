"""A run that dies in the middle of a validation: its best checkpoint and early end are those of an undisturbed run."""

import pytest
from held_rows import held_out
from test_validation import OtherTargets, assert_same, config, run, timeless

from tigerjax.checkpoint.files import steps


def test_a_death_in_a_validation_changes_neither_the_best_checkpoint_nor_the_early_end(tmp_path):
    """The held-out loss of OtherTargets soon rises, so `patience` ends the run; it dies two batches before that."""
    settings = config(keep_best=True, keep=1, total_steps=40, metric="wiki/loss_nats", patience=2)
    reads = []
    state = run(tmp_path / "whole", settings, OtherTargets(), held_out(lambda: reads.append(1)))
    assert len(reads) > 4

    def dies():
        reads.pop()
        if len(reads) == 1:  # in the last validation, whose step has no checkpoint yet
            raise RuntimeError("the machine is gone")

    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(tmp_path / "cut", settings, OtherTargets(), held_out(dies))
    assert steps(tmp_path / "cut/checkpoints") != steps(tmp_path / "whole/checkpoints")
    again = run(tmp_path / "cut", settings, OtherTargets())
    assert steps(tmp_path / "cut/checkpoints") == steps(tmp_path / "whole/checkpoints")
    assert_same(again.weights, state.weights)
    assert timeless(tmp_path / "cut") == timeless(tmp_path / "whole")
