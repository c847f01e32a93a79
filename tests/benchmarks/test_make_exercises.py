"""The files of data_mixtures/exercises are those that their script makes."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "data"))


def test_the_script_makes_the_committed_files():
    from make_exercises import FOLDER, build

    files = build()
    assert {path.name for path in FOLDER.iterdir()} == {*files, "NOTICE"}
    assert [name for name, content in files.items() if (FOLDER / name).read_bytes() != content] == []
