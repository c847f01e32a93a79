"""A link that somebody planted under a name that we write is never followed."""

import pytest

from tigerjax.files import log, manifest, paths
from tigerjax.stages import parts


@pytest.fixture
def precious(tmp_path):
    file = tmp_path / "precious.txt"
    file.write_text("years of work")
    yield file
    assert file.read_text() == "years of work"


def test_a_file_is_not_written_through_a_link_under_its_temporary_name(tmp_path, precious):
    for name, write in {
        "a.json": lambda path: manifest.write_json(path, {}),
        "b.jsonl": lambda path: parts.save_lines(path, [b"line"]),
    }.items():
        (tmp_path / f"{name}.part").symlink_to(precious)
        write(tmp_path / name)
        assert (tmp_path / name).is_file() and not (tmp_path / name).is_symlink()


def test_a_file_that_a_killed_process_left_half_written_is_no_obstacle(tmp_path):
    (tmp_path / "a.txt.part").write_text("half")
    paths.write_text(tmp_path / "a.txt", "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_stage_does_not_work_in_a_folder_behind_a_link(tmp_path, precious):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    (tmp_path / "out.partial").symlink_to(tmp_path / "mine")
    with manifest.stage(tmp_path / "out", name="copy", config={}, inputs=[]) as run:
        (run.tmp / "a.txt").write_text("a")
    assert (tmp_path / "mine" / "a.txt").read_text() == "mine" and (tmp_path / "out" / "a.txt").read_text() == "a"


def test_a_log_is_not_written_through_a_link(tmp_path, precious):
    (tmp_path / "metrics.jsonl").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        log.Log(tmp_path / "metrics.jsonl", [])


def test_removing_half_written_work_leaves_what_a_link_points_to(tmp_path, precious):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.txt").write_text("mine")
    (tmp_path / "1200.partial").symlink_to(tmp_path / "mine")
    paths.clear(tmp_path / "1200.partial")
    assert (tmp_path / "mine" / "a.txt").is_file() and not (tmp_path / "1200.partial").is_symlink()
