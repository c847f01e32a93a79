"""`tigerjax checkpoint`: what is there, whether it is whole to the byte, and what may be removed."""

import json
from pathlib import Path

import pytest

from tigerjax.checkpoint import files
from tigerjax.command import cli
from tigerjax.errors import DataError


def made(run: Path, *steps: int) -> Path:
    """Checkpoints of two files each, as `publish` leaves them."""
    folder = run / "checkpoints"
    for step in steps:
        partial = folder / f"{step}.partial"
        for room in ("weights", "opt_state"):
            (partial / room).mkdir(parents=True)
            (partial / room / "data").write_bytes(f"{room} of {step}".encode() * 100)
        files.publish(
            partial, folder / str(step), {"kind": "llama", "model": {}, "step": step}, files.checksums(partial)
        )
    return folder


def flip(path: Path) -> None:
    """One bit, the size unchanged: what only a checksum sees."""
    data = bytearray(path.read_bytes())
    data[7] ^= 1
    path.write_bytes(data)


def test_ls_lists_the_newest_first_and_names_what_is_cut_short(tmp_path, capsys):
    folder = made(tmp_path, 10, 20)
    (folder / "10" / "weights" / "data").write_bytes(b"short")
    (folder / "5.damaged").mkdir()
    assert cli.main(["checkpoint", "ls", str(tmp_path), "--json", str(tmp_path / "ls.json")]) == 0
    found = json.loads((tmp_path / "ls.json").read_text())
    assert [(row["step"], row["kind"]) for row in found["checkpoints"]] == [(20, "llama"), (10, None)]
    assert found["checkpoints"][0]["state"] == "whole" and "5 bytes" in found["checkpoints"][1]["state"]
    assert found["damaged"] == ["5.damaged"] and "5.damaged" in capsys.readouterr().out


def test_verify_reads_every_byte_and_exits_3_with_the_damaged_step(tmp_path, capsys):
    folder = made(tmp_path, 10, 20, 30)
    assert cli.main(["checkpoint", "verify", str(tmp_path)]) == 0
    flip(folder / "20" / "opt_state" / "data")
    assert cli.main(["checkpoint", "ls", str(folder)]) == 0  # sizes are right
    capsys.readouterr()
    assert cli.main(["checkpoint", "verify", str(folder)]) == 3
    said = capsys.readouterr()
    assert "damaged: 20;" in said.err and "opt_state/data: sha256 is" in said.out
    assert cli.main(["checkpoint", "verify", str(tmp_path), "--step", "10", "30"]) == 0


def test_rm_removes_what_is_named_but_not_the_newest_whole_one(tmp_path, capsys):
    folder = made(tmp_path, 10, 20, 30)
    (folder / "5.damaged").mkdir()
    assert cli.main(["checkpoint", "rm", str(tmp_path), "--step", "10", "--damaged"]) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["20", "30"]
    capsys.readouterr()
    for words, message in [
        (["--step", "30"], "30 is the newest whole checkpoint"),
        (["--step", "11"], "has no checkpoint of step 11; there are [30, 20]"),
        ([], "nothing to remove"),
    ]:
        assert cli.main(["checkpoint", "rm", str(tmp_path), *words]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["checkpoint", "rm", str(tmp_path), "--step", "30", "--force"]) == 0
    assert files.steps(folder) == [20]


def test_a_folder_without_checkpoints_exits_3(tmp_path, capsys):
    assert cli.main(["checkpoint", "ls", str(tmp_path)]) == 3
    assert "no checkpoints here" in capsys.readouterr().err


@pytest.mark.parametrize(("forever", "left"), [(None, [50, 40]), (20, [50, 40, 20]), (10, [50, 40, 30, 20, 10])])
def test_the_newest_stay_and_multiples_of_keep_every_steps(tmp_path, forever, left):
    folder = made(tmp_path, 10, 20, 30, 40, 50)
    files.prune(folder, keep=2, keep_every_steps=forever)
    assert files.steps(folder) == left


def test_hosts_share_the_reading_and_each_finds_damage_in_its_own_part(tmp_path):
    folder = made(tmp_path, 10)
    path, meta = folder / "10", files.read_meta(folder / "10")
    flip(path / "weights" / "data")
    rooms = ("weights", "opt_state")
    files.check_bytes(path, meta, rooms, part=0, parts=2)  # opt_state/data
    with pytest.raises(DataError, match="weights/data: xxh3 is"):
        files.check_bytes(path, meta, rooms, part=1, parts=2)
    parts = [files.checksums(path, part=p, parts=2) for p in range(2)]
    assert parts[0].keys() & parts[1].keys() == set() and len(parts[0] | parts[1]) == 2
