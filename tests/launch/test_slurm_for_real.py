"""`launch/run.sh slurm` under a real Slurm on this machine: a task is killed, the job is queued again and resumes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = [program for program in ("slurmctld", "slurmd", "munged", "sbatch") if shutil.which(program) is None]


@pytest.mark.slow
@pytest.mark.skipif(
    bool(MISSING) or os.getuid() != 0,
    reason=f"needs root and Slurm ({' '.join(MISSING)} not there): apt-get install slurm-wlm munge",
)
def test_a_job_whose_task_is_killed_is_queued_again_and_ends_bit_identical(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "studies" / "drill_slurm.py", "--json", tmp_path / "drill.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "drill.json").read_text())
    assert figures["bit_identical"] and figures["from_local_saves"]
    assert 0 < figures["resumed_from"] <= figures["reached"]
