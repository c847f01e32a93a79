"""Steps on Apache Spark: each is one job with a task for each item. The results come back to this process."""

import contextlib
import functools
import importlib.util
import os
import re
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError, WorkerLost
from tigerjax.files.progress import Advance
from tigerjax.stages import remote
from tigerjax.stages.words import split_runner
from tigerjax.terminal import tell

MASTERS = ("spark://HOST:PORT", "yarn", "k8s://HOST:PORT")
OWN = {"spark.app.name": "tigerjax", "spark.log.level": "ERROR", "spark.ui.showConsoleProgress": "false"}
"""Settings where the user gives no others. Progress is shown by the command."""
ANSWER_S, EXECUTOR_S, TELL_S = 10.0, 300.0, 5.0
"""Seconds within which a master must answer, within which an executor must start, and after which a line says that the
command waits for one."""
LOOK_S = 0.5
_TRACEBACK = re.compile(r"Traceback \(most recent call last\):\n(?:[ \t].*\n|\n)*(\S.*)")


class Spark:
    """`name` is the address of a master, and may be followed by `--conf KEY=VALUE` as spark-submit takes it."""

    def __init__(self, name: str, workers: int):
        self._master, options = split_runner(name)
        self._name, self._settings = name, OWN | _settings(name, options)
        self._masters = _addresses(name, self._master)
        self._context: Any = None
        if workers != 1:
            raise ConfigError(
                f"workers={workers} counts processes of runner 'local', but the runner is {name!r}; limit its cores by"
                " --conf spark.cores.max=N or spark.executor.instances=N, behind its name"
            )
        if importlib.util.find_spec("pyspark") is None:
            raise ConfigError(f"runner {name!r} needs PySpark: pip install 'tigerjax[spark]', or use --runner local")

    def each(
        self, function: Callable[[Any], Any], items: Sequence[Any], folder: Path, report: Advance | None
    ) -> list[Any]:
        def run(place: remote.Place) -> list[dict[str, Any]]:
            if self._context is None:
                self._start(place)
            return self._run(functools.partial(remote.task, place, function), items, folder.name, report)

        return remote.each(items, folder, run)

    def cores(self) -> int | None:
        """The cores of all executors; None before the first step."""
        return int(self._context.defaultParallelism) if self._context is not None else None

    def close(self) -> None:
        if self._context is not None:
            self._context.stop()
            self._context = None

    def _start(self, place: remote.Place) -> None:
        """Connects to the master, waits for an executor, and has the executors check that they can work."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PySpark warns of the version of pandas, which is not used here
            from pyspark import SparkConf, SparkContext

        if self._masters and not any(map(_answers, self._masters)):
            raise ConfigError(
                f"runner {self._name!r}: no master answers there; start it (sbin/start-master.sh), or give its address"
            )
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)  # the workers have it under the same path
        conf = SparkConf().setMaster(self._master).setAll(list(self._settings.items()))
        with _own_interrupt(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                self._context = SparkContext(conf=conf)
            except Exception as error:  # of Py4J, of PySpark, or of Python, as the cause may be anywhere
                raise ConfigError(f"runner {self._name!r}: {_first_line(error)}; correct it, or {_JAVA}") from error
        until = time.monotonic() + EXECUTOR_S
        told = False
        while self._executors() == 0:
            left = until - time.monotonic()
            if left < 0:
                raise WorkerLost(
                    f"runner {self._name!r}: no executor came within {EXECUTOR_S:.0f} s; look whether the cluster has"
                    " free workers with spark.executor.memory (1g), and start again"
                )
            if not told and left < EXECUTOR_S - TELL_S:
                tell(f"tigerjax: waiting for an executor of {self._master}")
                told = True
            time.sleep(LOOK_S)
        looks = range(max(self._executors(), self._context.defaultParallelism))
        for given in self._run(functools.partial(remote.task, place, _nothing), looks, "start", None):
            remote.answer(given)

    def _executors(self) -> int:
        return int(self._context._jsc.sc().getExecutorMemoryStatus().size()) - 1  # this process is one of them

    def _run(
        self, task: Callable[[Any], dict[str, Any]], items: Sequence[Any], step: str, report: Advance | None
    ) -> list[dict[str, Any]]:
        """What a job's task gave for each item. A thread waits for it, as Py4J would print what Ctrl-C interrupts."""
        given: list[dict[str, Any]] = []
        errors: list[Exception] = []

        def collect() -> None:
            try:
                given.extend(self._context.parallelize(list(items), len(items)).map(task).collect())
            except Exception as error:  # of Py4J, and of PySpark's where the context is closed meanwhile
                errors.append(error)

        job = threading.Thread(target=collect, daemon=True)
        job.start()
        while job.is_alive():
            job.join(LOOK_S)
            if report is not None:
                with contextlib.suppress(Exception):  # a context that has ended: the thread gets the reason
                    report(self._done(), len(items))
        if errors:
            raise self._explained(errors[0], step) from errors[0]
        if report is not None:
            report(len(items), len(items))
        return given

    def _done(self) -> int:
        """How many tasks of the job that runs are done."""
        tracker = self._context.statusTracker()
        about = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        return sum(stage.numCompletedTasks for stage in about if stage is not None)

    def _explained(self, error: Exception, step: str) -> Exception:
        """What stopped a job, as one line where the cluster is the cause. Anything else is a bug of ours."""
        text = str(error)
        head = f"step {step}: runner {self._name!r}"
        if absent := re.search(r"ModuleNotFoundError: No module named '([^']+)'", text):
            return ConfigError(f"{head}: a worker cannot import {absent[1]}; {_SAME}")
        if "PYTHON_VERSION_MISMATCH" in text:
            return ConfigError(f"{head}: a worker has another version of Python; {_SAME}")
        if absent := re.search(r'Cannot run program "([^"]+)"', text):
            return ConfigError(f"{head}: a worker has no program {absent[1]}; {_SAME}")
        if found := _TRACEBACK.findall(text):
            return RuntimeError(f"{head}: a task ended with {found[-1]}\n{text}")
        return WorkerLost(
            f"{head}: {_first_line(error)}; nothing was written: see to its workers (memory:"
            " spark.executor.memoryOverhead), and start again"
        )


_JAVA = "install Java 17 or newer and set JAVA_HOME where there is none"
_SAME = "install the same Python, tigerjax and packages on all workers, and name that Python by PYSPARK_PYTHON"


def _nothing(_: int) -> None:
    """A task that does nothing: a worker checks its folders and its code before each task."""
    time.sleep(0.1)  # so that no core gets two before another one has its first


def _settings(name: str, options: Sequence[str]) -> dict[str, str]:
    """The settings of Spark behind the name of a runner. ConfigError for other words."""
    out = {}
    for flag, value in zip(options[::2], [*options[1::2], ""], strict=False):
        key, equals, setting = value.partition("=")
        if flag != "--conf" or not equals or not key.startswith("spark."):
            raise ConfigError(
                f"runner {name!r}: {f'{flag} {value}'.strip()!r} is no setting of Spark; write each as in"
                ' "spark://HOST:7077 --conf spark.cores.max=64"'
            )
        out[key] = setting
    return out


def _addresses(name: str, master: str) -> list[tuple[str, int]]:
    """(host, port) of each master of a standalone cluster; none of others. ConfigError for what is no master."""
    kind, _, rest = master.partition("://")
    if master == "yarn" or (kind == "k8s" and rest):
        return []
    out = []
    for address in rest.split(",") if kind == "spark" else ():
        host, _, port = address.rpartition(":")
        if host and port.isdecimal():
            out.append((host.strip("[]"), int(port)))
    if not out or len(out) != len(rest.split(",")):
        raise ConfigError(f"runner {name!r}: {master!r} is no master of Spark; give one as {', '.join(MASTERS)}")
    return out


def _answers(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, ANSWER_S):
            return True
    except OSError:
        return False


@contextlib.contextmanager
def _own_interrupt() -> Iterator[None]:
    """Keeps what Ctrl-C does: PySpark would replace it, and leave it so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _first_line(error: Exception) -> str:
    """The first line of an error that says something, without the names of Java's classes before it."""
    lines = [line.strip(": ") for line in str(error).splitlines() if line.strip(": ")]
    said = next((line for line in lines if "Exception: " in line or "Error: " in line), lines[0] if lines else "")
    return re.sub(r"^(?:[\w.$]+(?:Exception|Error): )+", "", said) or type(error).__name__
