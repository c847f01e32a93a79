"""Ctrl-C while worker processes are at work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from child_processes import heeding_ctrl_c

INTERRUPTED = """
import time
from pathlib import Path
from tigerjax.stages.local import Processes

if __name__ == "__main__":
    processes = Processes("slow", 2)
    try:
        print("begun", flush=True)
        processes.each(time.sleep, [60.0, 60.0], Path("x"), None)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    finally:
        processes.close()
"""


@pytest.mark.parametrize("after", [0.3, 3.0])
def test_ctrl_c_of_a_terminal_is_answered_once_and_not_by_every_worker(tmp_path, after):
    """Also while the workers start: a terminal sends it to all processes in the foreground."""
    (tmp_path / "program.py").write_text(INTERRUPTED, encoding="utf-8")
    with heeding_ctrl_c():
        process = subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    assert process.stdout.readline() == "begun\n"
    time.sleep(after)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=50)
    assert (process.returncode, out, err) == (0, "interrupted\n", "")
