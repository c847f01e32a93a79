"""A save that is killed or refused by the disk at any point leaves its checkpoint whole or absent; the others stay."""

import errno
import os
import random
import shutil
import signal

import numpy as np
import pytest
from forked import Children
from saving import restore, save

from tigerjax.checkpoint.files import check_bytes, folder_of, read_meta, steps
from tigerjax.command.cli import main

POINTS = int(os.environ.get("TIGERJAX_FAULT_POINTS", 3))


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    here = Children(tmp_path_factory.mktemp("children"), "saves")
    yield here
    here.close()


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run with a checkpoint of step 3."""
    folder = tmp_path_factory.mktemp("first") / "run"
    save(folder, 3)
    return folder


@pytest.mark.parametrize("do", ["kill", errno.ENOSPC, errno.EIO])
def test_a_save_that_ends_early_loses_nothing(children, first, tmp_path, do):
    run = shutil.copytree(first, tmp_path / "run")
    points = children.run(["call", "saves:save_step", run, 7], tmp_path).points
    assert steps(folder_of(run)) == [7, 3]
    for at in sorted(random.Random(0).sample(range(1, points + 1), min(POINTS, points))):
        shutil.rmtree(run)
        shutil.copytree(first, run)
        ended = children.run(["call", "saves:save_step", run, 7], tmp_path, at=at, do=do)
        assert (ended.code == -signal.SIGKILL) == (do == "kill"), (at, ended)
        there = steps(folder_of(run))
        assert 3 in there
        for step in there:
            check_bytes(folder_of(run) / str(step), read_meta(folder_of(run) / str(step)), ("weights", "opt_state"))
        assert main(["checkpoint", "verify", str(run)]) == 0
        state, meta = restore(run)
        assert meta["step"] == max(there) and float(np.asarray(state.weights["embed"])[0, 0]) == max(there)
        if 7 not in there:
            assert children.run(["call", "saves:save_step", run, 7], tmp_path).code == 0, at
            assert restore(run)[1]["step"] == 7
