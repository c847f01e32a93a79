"""How processes of a run find each other when something is wrong: one line and exit 1 or 2, and never a crash."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tigerjax.errors import HostsError
from tigerjax.processes import coordinator, versions

TESTS = Path(__file__).resolve().parents[1]


def begin(*words: object) -> subprocess.Popen[str]:
    """`starting.py WORDS` as a process."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS.parent}{os.pathsep}{TESTS}"}
    command = [sys.executable, Path(__file__).with_name("starting.py"), *map(str, words)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """(exit code, the last line on stderr) of a process that ends by itself."""
    _, err = process.communicate(timeout=300)
    assert "Traceback" not in err and "Check failure" not in err, err
    return process.returncode, err.strip().splitlines()[-1]


@pytest.fixture
def taken():
    """A port of loopback that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_port_that_is_taken_is_refused_before_jax_crashes_on_it(taken):
    code, line = ended(begin(f"127.0.0.1:{taken}", 2, 0, 60))
    assert code == 1 and line.startswith(f"tigerjax: port {taken} of 127.0.0.1 is taken"), line


@pytest.mark.parametrize("process", [0, 1])
def test_a_coordinator_or_a_peer_that_never_comes_is_one_line(process):
    code, line = ended(begin(f"127.0.0.1:{free_port()}", 2, process, 4))
    assert code == 1 and "did not find each other within 4 s" in line and "start all of them" in line, line


def test_hosts_with_other_code_are_named_with_what_differs():
    address = f"127.0.0.1:{free_port()}"
    both = [begin(address, 2, 0, 200), begin(address, 2, 1, 200, "an-edited-copy")]
    for code, line in map(ended, both):
        assert code == 2 and "the code differs between hosts: source " in line and "an-edited-copy on host 1" in line
        assert "jaxlib" not in line  # only what differs


def test_the_coordinator_listens_where_the_others_were_told(taken, capfd):
    port = free_port()
    assert coordinator.bind_address(f"127.0.0.1:{port}") == f"127.0.0.1:{port}"
    assert coordinator.bind_address(f"localhost:{port}") in (f"127.0.0.1:{port}", f"[::1]:{port}")
    assert coordinator.bind_address("192.0.2.1:1234") is None  # an address for documentation: no machine has it
    with pytest.raises(HostsError, match="is taken by another program"):
        coordinator.bind_address(f"127.0.0.1:{taken}")
    given = {"coordinator_address": f"127.0.0.1:{port}", "num_processes": 2, "process_id": 0}
    assert coordinator.bound(given)["coordinator_bind_address"] == f"127.0.0.1:{port}"
    other = given | {"process_id": 1}
    assert coordinator.bound(other) == other and coordinator.bound({}) == {}
    assert capfd.readouterr().err == ""
    coordinator.bound(given | {"coordinator_address": "192.0.2.1:1234"})
    assert "the coordinator listens on all its addresses" in capfd.readouterr().err


def test_what_a_process_runs_is_the_same_twice_and_changes_with_the_source(tmp_path, monkeypatch):
    assert versions.running() == versions.running() and versions.running()["jax"] and versions.running()["source"]
    for name in ("tigerjax", "other"):
        (tmp_path / name / "tigerjax").mkdir(parents=True)
        (tmp_path / name / "tigerjax" / "__init__.py").write_text(f"# {name}\n")
    found = []
    for name in ("tigerjax", "other"):
        monkeypatch.setattr(versions.tigerjax, "__file__", str(tmp_path / name / "tigerjax" / "__init__.py"))
        found.append(versions.running())
    assert found[0]["source"] != found[1]["source"] and found[0]["lock files"] == ""
