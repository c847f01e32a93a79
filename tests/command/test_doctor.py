"""`tigerjax doctor` says what it found, and ends with 5 when something would stand in the way."""

import importlib.metadata
import json
import shutil
from collections import namedtuple

from tigerjax.command import cli, doctor

Usage = namedtuple("Usage", "total used free")


def test_a_machine_on_which_all_is_well(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_DISK_GB", 0)
    monkeypatch.setattr(doctor, "_locked", lambda: iter(()))  # the suite may run on versions beside the lock
    assert cli.main(["doctor", "--bucket", str(tmp_path / "b"), "--json", str(tmp_path / "f.json")]) == 0
    out = capsys.readouterr().out
    figures = json.loads((tmp_path / "f.json").read_text())
    assert figures["troubles"] == [] and figures["devices"].endswith("(cpu)") and out.endswith("all well\n")
    assert "written, read, listed, removed" in figures["bucket"] and not list((tmp_path / "b").iterdir())


def test_what_stands_in_the_way_is_named_with_what_to_change(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(100e9, 99e9, 1e9))
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "flax" else version(name))
    (tmp_path / "file").write_text("")
    assert cli.main(["doctor", "--bucket", str(tmp_path / "file")]) == 5
    err = capsys.readouterr().err
    for part in ("flax is 0.1, needed", "free some: checkpoints and rows need at least 10 GB", "bucket: "):
        assert part in err
    assert err.count("\n") == 1


def test_packages_beside_the_lock_are_counted(monkeypatch):
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "flax" else version(name))
    (found,) = doctor._locked()
    assert "flax 0.1 instead of" in found.trouble
