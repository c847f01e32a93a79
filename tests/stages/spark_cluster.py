"""A Spark standalone cluster on the loopback of this machine: a master, and workers that can be killed."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MISSING = [name for name, there in (("pyspark", importlib.util.find_spec("pyspark")), ("Java", shutil.which("java")))
           if not there]  # fmt: skip
WAIT_S = 90


class Cluster:
    """`url` is the master's address; `workers` are processes, each the first of its own group."""

    def __init__(self, folder: Path, url: str, master: subprocess.Popen):
        self.url, self._folder, self._master = url, folder, master
        self.workers: list[subprocess.Popen] = []

    def add_worker(self, number: int) -> None:
        where = self._folder / f"worker-{number}"
        words = ["--host", "127.0.0.1", "--cores", "1", "--memory", "1200M", "--webui-port", "0", "--work-dir", where]
        process, log = _started(self._folder, f"worker-{number}", "worker.Worker", *map(str, words), self.url)
        self.workers.append(process)
        _said(log, r"Successfully registered with master", process)

    def kill_worker(self, number: int) -> None:
        """Kills a worker and its executors, as a machine that loses its power."""
        os.killpg(self.workers[number].pid, signal.SIGKILL)
        self.workers[number].wait()

    def end(self) -> None:
        for process in [*self.workers, self._master]:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def started(folder: Path, workers: int = 2) -> Cluster:
    """A cluster whose logs and temporary files are in the folder."""
    words = ["--host", "127.0.0.1", "--port", "0", "--webui-port", "0"]
    master, log = _started(folder, "master", "master.Master", *words)
    cluster = Cluster(folder, _said(log, r"Starting Spark master at (spark://\S+)", master), master)
    try:
        for number in range(workers):
            cluster.add_worker(number)
    except BaseException:
        cluster.end()
        raise
    return cluster


def _started(folder: Path, name: str, what: str, *words: str) -> tuple[subprocess.Popen, Path]:
    home = Path(importlib.util.find_spec("pyspark").origin).parent
    # Workers run no test's code: they import tigerjax from this checkout, and the functions of `tasks`.
    path = [str(ROOT), str(Path(__file__).parent), str(home.parent), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "SPARK_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(path),
        "PYSPARK_PYTHON": sys.executable,
        "SPARK_LOCAL_DIRS": str(folder / "spark"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "256m",
    }
    log = folder / f"{name}.log"
    command = [str(home / "bin" / "spark-class"), f"org.apache.spark.deploy.{what}", *words]
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env=env, cwd=folder, stdout=out, stderr=out, start_new_session=True)
    return process, log


def _said(log: Path, pattern: str, process: subprocess.Popen) -> str:
    until = time.monotonic() + WAIT_S
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(pattern, log.read_text(encoding="utf-8", errors="replace")):
            return found[found.re.groups]
        time.sleep(0.2)
    raise AssertionError(f"{pattern} is not in {log}:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
