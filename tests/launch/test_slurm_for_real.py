"""`launch/run.sh slurm` under a real Slurm on this machine: a task is killed, the job is queued again and resumes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = [program for program in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(program) is None]


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(MISSING) or os.getuid() != 0,
        reason=f"needs root and Slurm ({' '.join(MISSING)} not there): apt-get install slurm-wlm munge",
    ),
]


def drill(figures: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, ROOT / "benchmarks" / "studies" / "drill_slurm.py", *options, "--json", figures]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(figures.read_text())


def test_a_job_whose_task_is_killed_is_queued_again_and_ends_bit_identical(tmp_path):
    figures = drill(tmp_path / "drill.json")
    assert figures["bit_identical"] and figures["from_local_saves"]
    assert 0 < figures["resumed_from"] <= figures["reached"]


def test_a_job_that_loses_a_node_goes_on_with_the_other_and_takes_it_back(tmp_path):
    figures = drill(tmp_path / "drill.json", "--elastic", "--steps", "150")
    assert figures["nodes_of_each_start"] == [2, 1, 2]
