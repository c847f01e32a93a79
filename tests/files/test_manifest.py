"""Stages: whole or not there, skipped when unchanged, and never in the place of something else."""

import pytest

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest


def run(out, *, name="copy", config=None, inputs=()):
    """A stage that writes one file; returns whether it had to work."""
    with manifest.stage(out, name=name, config=config or {}, inputs=inputs) as stage:
        if not stage.done:
            (stage.tmp / "a.txt").write_text("a")
        return not stage.done


def test_a_stage_works_once_and_again_when_its_input_or_config_changed(tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out"
    source.write_text("1")
    assert run(out, inputs=[source]) and not run(out, inputs=[source])
    assert manifest.read(out)["outputs"] == ["a.txt"]
    source.write_text("2")
    assert run(out, inputs=[source]) and run(out, inputs=[source], config={"a": 1})


def test_a_stage_that_fails_leaves_the_earlier_result(tmp_path):
    run(tmp_path / "out")
    with pytest.raises(RuntimeError), manifest.stage(tmp_path / "out", name="copy", config={"b": 1}, inputs=[]):
        raise RuntimeError
    assert (tmp_path / "out" / "a.txt").is_file() and not (tmp_path / "out.partial").exists()


def test_a_second_stage_in_the_same_folder_is_refused_and_the_first_ends_well(tmp_path):
    with manifest.stage(tmp_path / "out", name="copy", config={}, inputs=[]) as first:
        (first.tmp / "a.txt").write_text("a")
        with pytest.raises(ConfigError, match="out is in use by process"):
            run(tmp_path / "out")
        assert (first.tmp / "a.txt").is_file()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]  # no lock is left


def test_a_stage_never_replaces_what_it_did_not_write(tmp_path):
    precious = tmp_path / "mine" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work")
    with pytest.raises(ConfigError, match="files that no stage wrote"):
        run(precious.parent)
    run(tmp_path / "cleaned", name="clean")
    with pytest.raises(ConfigError, match="holds the result of stage 'clean'"):
        run(tmp_path / "cleaned", name="dedup")
    with pytest.raises(ConfigError, match="is an input and lies in the output"):
        run(precious.parent, inputs=[precious])
    with pytest.raises(ConfigError, match="files that no stage wrote"):
        run(precious)
    assert precious.read_text() == "years of work" and (tmp_path / "cleaned" / "a.txt").is_file()
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty")


def test_counts_must_balance_and_inputs_exist(tmp_path):
    counts = {"in": 3, "out": 1, "dropped": {"bad": 1}}
    with pytest.raises(DataError, match="do not balance"):
        with manifest.stage(tmp_path / "out", name="copy", config={}, inputs=[]) as stage:
            stage.counts = counts
    with pytest.raises(DataError, match="does not exist"):
        run(tmp_path / "out", inputs=[tmp_path / "nothing"])


def test_a_broken_manifest_is_bad_data(tmp_path):
    run(tmp_path / "out")
    (tmp_path / "out" / manifest.FILE).write_text('{"stage": "co')
    with pytest.raises(DataError, match="broken JSON"):
        run(tmp_path / "out")
