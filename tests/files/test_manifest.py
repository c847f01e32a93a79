"""Stages: whole or not there, skipped when unchanged, and never in the place of something else."""

import shutil

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
    (output,) = manifest.read(out)["outputs"]
    assert output == {"path": "a.txt", "bytes": 1, "sha256": manifest.sha256(out / "a.txt")}
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


@pytest.mark.parametrize("name", ["notes.txt", "deep/notes.txt", "link"])
def test_a_file_of_the_users_in_a_result_is_named_and_stays_when_the_stage_is_done_again(tmp_path, name):
    out = tmp_path / "out"
    run(out)
    mine = out / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine") if name != "link" else mine.symlink_to(tmp_path / "not there")
    (out / ".DS_Store").write_text("of a file manager")
    assert not run(out)  # nothing is replaced
    with pytest.raises(ConfigError, match=rf"out holds {name}, which stage 'copy' did not write and would lose; move"):
        run(out, config={"b": 1})
    assert (mine.is_symlink() or mine.read_text() == "mine") and not (tmp_path / "out.partial").exists()
    mine.unlink()
    assert run(out, config={"b": 1})


def test_a_file_that_comes_while_the_stage_works_stays_too(tmp_path):
    out = tmp_path / "out"
    run(out)
    with pytest.raises(ConfigError, match=r"holds late\.txt, which stage 'copy' did not write"):
        with manifest.stage(out, name="copy", config={"b": 1}, inputs=[]) as stage:
            (stage.tmp / "a.txt").write_text("b")
            (out / "late.txt").write_text("mine")
    assert (out / "late.txt").read_text() == "mine" and (out / "a.txt").read_text() == "a"


def test_many_files_of_the_users_are_counted(tmp_path):
    run(tmp_path / "out")
    for name in "bcdef":
        (tmp_path / "out" / name).write_text("mine")
    with pytest.raises(ConfigError, match="holds b, c, d and 2 others, which"):
        run(tmp_path / "out", config={"b": 1})


def test_checkpoints_that_a_run_left_are_no_files_of_the_users(tmp_path):
    def train(seed):
        with manifest.stage(tmp_path / "out", name="train", config={"seed": seed}, inputs=[]) as stage:
            (stage.tmp / "run" / "checkpoints" / "1").mkdir(parents=True)
            (stage.tmp / "run" / "checkpoints" / "1" / "meta.json").write_text("{}")

    train(0)
    (tmp_path / "out/run/checkpoints/2").mkdir()
    (tmp_path / "out/run/checkpoints/2/meta.json").write_text("{}")
    train(1)
    assert not (tmp_path / "out/run/checkpoints/2").exists()


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
    with pytest.raises(DataError, match="not JSON"):
        run(tmp_path / "out")


CHANGES = {
    "removed": (lambda path: path.unlink(), "a.txt is missing, and was written"),
    "cut": (lambda path: path.write_text(""), "a.txt has 0 bytes, and 1 were written"),
    "altered": (lambda path: path.write_text("b"), "a.txt holds other bytes than were written"),
}


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_a_finished_stage_is_done_again_when_an_output_is_not_as_it_was_written(tmp_path, capsys, change, why):
    out = tmp_path / "out"
    assert run(out)
    change(out / "a.txt")
    assert run(out) and (out / "a.txt").read_text() == "a"
    assert f"{out}: {why}; the stage is done again" in capsys.readouterr().err
    assert not run(out)


@pytest.mark.parametrize(("change", "why"), CHANGES.values(), ids=CHANGES)
def test_a_stage_refuses_an_input_that_is_not_as_its_stage_wrote_it(tmp_path, change, why):
    run(tmp_path / "first")
    (tmp_path / "first" / "own.txt").write_text("of the user")
    change(tmp_path / "first" / "a.txt")
    refused = [tmp_path / "first"]
    if "other bytes" in why:  # what is not read is not hashed
        refused.append(tmp_path / "first" / "a.txt")
    else:  # a pattern names what is left of the folder
        refused.append(tmp_path / "first" / "own.txt")
    for path in refused:
        with pytest.raises(DataError, match=f"{why} by stage 'copy'; run that stage again"):
            run(tmp_path / "second", inputs=[path])
        assert not (tmp_path / "second").exists()
    shutil.copytree(tmp_path / "first", tmp_path / "own", ignore=shutil.ignore_patterns(manifest.FILE))
    assert run(tmp_path / "second", inputs=[tmp_path / "own"])  # as the message advises


def test_outputs_of_any_size_are_compared_by_hash_when_that_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "CHEAP_BYTES", 0)
    out = tmp_path / "out"
    run(out)
    (out / "a.txt").write_text("b")
    assert not run(out)
    with manifest.stage(out, name="copy", config={}, inputs=[], verify=True) as stage:
        assert not stage.done
        (stage.tmp / "a.txt").write_text("a")
    (out / "a.txt").write_text("b")
    with pytest.raises(DataError, match="holds other bytes"):  # an input is hashed in any case
        run(tmp_path / "second", inputs=[out / "a.txt"])


def test_work_that_costs_too_much_is_not_done_again_without_asking(tmp_path):
    out = tmp_path / "out"
    run(out)
    (out / "a.txt").unlink()
    with pytest.raises(DataError, match="put the file back, or remove the folder"):
        with manifest.stage(out, name="copy", config={}, inputs=[], again=False):
            pass
    assert out.exists()


def test_checkpoints_that_the_user_removed_are_not_missed(tmp_path):
    with manifest.stage(tmp_path / "out", name="train", config={}, inputs=[]) as stage:
        (stage.tmp / "run" / "checkpoints" / "10").mkdir(parents=True)
        (stage.tmp / "run" / "checkpoints" / "10" / "meta.json").write_text("{}")
    assert manifest.read(tmp_path / "out")["outputs"] == [{"path": "run/checkpoints/10/meta.json"}]
    (tmp_path / "out" / "run" / "checkpoints" / "10" / "meta.json").unlink()
    with manifest.stage(tmp_path / "out", name="train", config={}, inputs=[], again=False) as stage:
        assert stage.done


def test_two_stages_do_not_write_one_folder(tmp_path):
    out = tmp_path / "out"
    with manifest.stage(out, name="copy", config={}, inputs=[]) as first:
        (first.tmp / "a.txt").write_text("a")
        with pytest.raises(ConfigError, match=r"out is in use by process \d+ on .*give another folder"):
            run(out)
        assert (first.tmp / "a.txt").is_file()
    assert sorted(path.name for path in out.iterdir()) == ["a.txt", manifest.FILE]
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and not run(out)


def test_what_a_killed_stage_left_is_taken_over(tmp_path):
    (tmp_path / "out.partial" / "work").mkdir(parents=True)
    for name in (".lock", "b.txt", "work/c.txt"):
        (tmp_path / "out.partial" / name).write_text("process 1 on some host")
    assert run(tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.txt", manifest.FILE]
