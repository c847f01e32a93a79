"""Which Python and which lock `make` takes. The Pythons are stand-ins; nothing is installed."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def install_lines(folder: Path, pythons: dict[str, str | None], *arguments: str) -> list[str]:
    """What `make venv` would install, with these Pythons first on the PATH: name -> version, None for one that fails.

    Those of python3.13, python3.12 and python3 that are not named fail too, so that this machine's own do not count.
    """
    for name in ("python3.13", "python3.12", "python3"):
        version = pythons.get(name)
        answers = f'case "$2" in *%d*) echo {version} ;; esac' if version else "echo no such version >&2; exit 127"
        (folder / name).write_text(f"#!/bin/sh\n{answers}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHON", "PEERS", "MAKEFLAGS")}
    env["PATH"] = f"{folder}:{env['PATH']}"
    command = ["make", "-n", "venv", f"VENV={folder}/venv", *arguments]  # not the venv that runs this test: it is made
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [line.split(" install ")[1] for line in done.stdout.splitlines() if " install " in line and " -r " in line]
    checked = "--require-hashes --no-deps "
    assert all(line.startswith(checked) for line in lines), lines
    return [line.removeprefix(checked) for line in lines if "--dry-run" not in line]


@pytest.mark.parametrize(
    ("pythons", "lock"),
    [
        ({"python3.13": "3.13.1", "python3.12": "3.12.4", "python3": "3.11.7"}, "requirements-py312.lock"),
        ({"python3.13": None, "python3.12": "3.12.4", "python3": "3.11.7"}, "requirements-py312.lock"),
        ({"python3.13": None, "python3.12": None, "python3": "3.11.7"}, "requirements-py311.lock"),
    ],
)
def test_make_takes_the_first_python_that_runs_and_its_lock(tmp_path, pythons, lock):
    assert install_lines(tmp_path, pythons)[0] == f"-r {lock}"


def test_a_named_python_comes_before_all_others(tmp_path):
    pythons = {"python3.13": "3.13.1", "python3": "3.11.7"}
    assert install_lines(tmp_path, pythons, "PYTHON=python3")[0] == "-r requirements-py311.lock"


def test_the_peers_come_with_python_3_11_and_on_request_with_a_newer_one(tmp_path):
    with_peers = ["-r requirements-py311.lock", "-r requirements-py311.lock -r requirements-peers.lock -r $torch"]
    assert install_lines(tmp_path, {"python3": "3.11.7"}) == with_peers
    assert install_lines(tmp_path, {"python3": "3.11.7"}, "PEERS=") == with_peers[:1]
    newer = [line.replace("py311", "py312") for line in with_peers]
    assert install_lines(tmp_path, {"python3.13": "3.13.1"}) == newer[:1]
    assert install_lines(tmp_path, {"python3.13": "3.13.1"}, "PEERS=1") == newer


def test_the_build_of_torch_for_the_cpu_is_taken_where_pip_finds_it_and_that_of_pypi_elsewhere(tmp_path):
    """The recipe's own lines, with a stand-in for pip that has the CPU build or does not."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").split("\n\ttorch=")[1].split("\n\t@touch")[0]
    for code, lock in ((0, "requirements-torch-cpu.lock"), (1, "requirements-torch.lock")):
        pip = f"pip() {{ case $* in *--dry-run*) return {code};; esac; echo $*; }}\n"
        script = pip + "torch=" + recipe.replace("$$", "$").replace("$(install)", "pip").replace("$(LOCK)", "x.lock")
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
        assert done.stdout == f"-r x.lock -r requirements-peers.lock -r {lock}\n", done


LOCKS = ("py311", "py312", "peers", "torch", "torch-cpu", "gpu")


def pins(name: str) -> dict[str, list[str]]:
    """The packages of a lock, each with its hashes."""
    text = (ROOT / f"requirements-{name}.lock").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    found = {words[0].partition("==")[0].lower(): [w for w in words if w.startswith("--hash=")] for words in lines}
    assert len(found) == len(lines), f"{name} names a package twice"
    return found


def test_the_locks_have_one_version_a_package_and_the_peers_are_in_none_of_the_others():
    py311, py312, peers, torch, cpu, gpu = map(pins, LOCKS)
    assert set(py311) == set(py312) and not set(py311) & (set(peers) | set(torch)) and not set(peers) & set(torch)
    assert "torch" in torch and set(cpu) == {"torch"} and "transformers" in peers
    assert "libtpu" in py312 and "jax-cuda13-plugin" in gpu and not set(gpu) & set(py312)


def test_every_package_of_every_lock_has_its_hashes():
    """`pip --require-hashes` takes no file without one; `make lock` writes them."""
    for name in LOCKS:
        for package, hashes in pins(name).items():
            assert hashes and all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", h) for h in hashes), (name, package)
            assert len(set(hashes)) == len(hashes), (name, package)
