"""Where a process finds its run, without starting one: flags, variables, Slurm, TPU pods; and what it refuses."""

import errno
import threading
from typing import NoReturn

import pytest

from tigerjax.errors import ConfigError, DataError
from tigerjax.processes import hosts
from tigerjax.processes.rendezvous import HostsConfig, find

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[001-002]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
JAX = {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}


@pytest.mark.parametrize(
    ("config", "environ", "wanted"),
    [
        ({}, {}, None),
        ({}, JAX, ("10.0.0.1:1234", 4, 3)),
        ({"process": 2}, JAX, ("10.0.0.1:1234", 4, 2)),
        ({"coordinator": "a:1", "processes": 2, "process": 0}, {}, ("a:1", 2, 0)),
        ({"coordinator": "a:1", "processes": 1, "process": 0}, {}, None),
        ({"find": "one"}, JAX | SLURM, None),
        ({}, SLURM, "slurm"),
        ({}, SLURM | {"SLURM_NTASKS": "1"}, None),
        ({}, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),  # a batch script, before srun
        ({}, {"TPU_WORKER_HOSTNAMES": "a,b"}, "tpu"),
        ({}, {"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({}, {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "tpu"),
        ({"find": "tpu"}, {}, "tpu"),
    ],
)
def test_a_process_finds_its_run(config, environ, wanted):
    found = find(HostsConfig(**config), environ)
    if wanted is None:
        assert found is None
    elif wanted == "slurm":
        assert found == {"cluster_detection_method": "slurm"}
    elif wanted == "tpu":
        assert found == {}  # JAX asks the pod's variables, then the metadata server
    else:
        address, count, index = wanted
        assert (found["coordinator_address"], found["num_processes"], found["process_id"]) == (address, count, index)


@pytest.mark.parametrize(
    ("config", "environ", "words"),
    [
        ({"coordinator": "a:1"}, {}, "--hosts.processes and --hosts.process missing"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, {}, r"--hosts.process 2 must be in \[0"),
        ({"coordinator": "a", "processes": 2, "process": 0}, {}, "must be HOST:PORT"),
        ({}, JAX | {"JAX_PROCESS_ID": "x"}, "JAX_PROCESS_ID='x' must be a number"),
        ({"find": "slurm"}, {}, "SLURM_JOB_ID.* not set; start the command with srun"),
    ],
)
def test_what_does_not_fit_is_refused(config, environ, words):
    with pytest.raises(ConfigError, match=words):
        find(HostsConfig(**config), environ)


def test_hosts_that_differ_are_told_only_what_differs(monkeypatch):
    one = {"optim.peak_lr": "0.1", "seed": "0", "data": {"rows_sha256": {"zh": "a", "en": "b"}}, "libtpu": ""}
    other = {"optim.peak_lr": "0.1", "seed": "1", "data": {"rows_sha256": {"zh": "c", "en": "b"}}, "libtpu": "0.1"}
    monkeypatch.setattr(hosts, "share", lambda name, value: [one, one, other])
    with pytest.raises(ConfigError) as caught:
        hosts.same("the run's config", one)
    assert str(caught.value) == (
        "the run's config differs between hosts: data.rows_sha256.zh a, libtpu none, seed 0 on host 0,"
        " data.rows_sha256.zh c, libtpu 0.1, seed 1 on host 2; start every host with the same command,"
        " files and version"
    )
    monkeypatch.setattr(hosts, "share", lambda name, value: [[1], [2]])
    with pytest.raises(ConfigError, match=r"differs between hosts: \[1\] on host 0, \[2\] on host 1"):
        hosts.same("a list", [1])


def test_a_time_limit_below_one_second_is_refused():
    with pytest.raises(ConfigError, match=r"hosts.stall_timeout_s=0"):
        HostsConfig(stall_timeout_s=0)


def test_one_process_agrees_with_itself_and_keeps_its_errors():
    assert hosts.is_writer() and not hosts.several() and hosts.share("x", 3) == [3]
    hosts.barrier("x")
    hosts.same("x", [1])
    with pytest.raises(ConfigError, match="mine"), hosts.together():
        raise ConfigError("mine")
    received: list[int] = []
    stop = hosts.Stop(received)
    assert not stop.before(0) and stop.number == 0
    received.append(15)
    assert stop.before(1) and stop.number == 15


class Store:
    """The coordination service's key-value store, of one process."""

    def __init__(self):
        self.values = dict[str, str]()

    def key_value_set(self, key: str, value: str) -> None:
        self.values[key] = value

    def blocking_key_value_get(self, key: str, _: int) -> str:
        return self.values[key]

    def wait_at_barrier(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "line", "code"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on the disk for the output", 3),
        (OSError(errno.EFBIG, "File too large"), "no space left on the disk for the output", 3),
        (PermissionError(errno.EROFS, "Read-only file system", "runs/a"), "runs/a: Read-only file system; change", 3),
        (OSError(errno.EIO, "Input/output error"), "the output: Input/output error; the disk or its server failed", 3),
        (DataError("rows: damaged"), "rows: damaged", 3),
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero", 1),
    ],
    ids=str,
)
def test_what_the_disk_of_one_host_refuses_ends_all_with_its_line_and_code(monkeypatch, capfd, error, line, code):
    """As in a run of one process: not with the code of a lost host, after which a launcher starts all again."""

    def left(code: int) -> NoReturn:
        raise SystemExit(code)

    monkeypatch.setattr(hosts.os, "_exit", left)
    monkeypatch.setattr(hosts, "LAST_S", 0)
    monkeypatch.setattr(hosts._state, "leaving", threading.Lock())
    with pytest.raises(SystemExit) as ended:
        hosts._fail(Store(), error)
    said = capfd.readouterr().err
    assert ended.value.code == code and f"tigerjax: host 0 of 1: {line}" in said
    assert said.startswith("tigerjax:") == (code != 1)  # an error of another kind is a bug, and shown whole
