"""A stage that is killed or refused by the disk at any point is whole or absent, and comes out the same later."""

import errno
import itertools
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from ending import files_of
from forked import Children
from hand_tokenizer import write_added
from text_readers import QUESTIONS, SFT, TEXTS, lines

from tigerjax.command.cli import INTERRUPTED, main
from tigerjax.files import manifest

POINTS = int(os.environ.get("TIGERJAX_FAULT_POINTS", 4))
"""At so many points of each stage, out of 10 to 60."""
STAGES = {
    "clean": "data clean --input in/docs.jsonl --out out --on language",
    "exact": "data dedup exact --input in/docs.jsonl in/more.jsonl --out out --shards 2",
    "near": "data dedup near --input in/docs.jsonl in/more.jsonl --out out --shards 2",
    "substrings": "data dedup substrings --input in/docs.jsonl in/more.jsonl --out out --shards 2",
    "against": "data dedup against-sft --docs in/docs.jsonl --sft in/sft.jsonl --out out --shards 2",
    "decontaminate": "data decontaminate --docs in/docs.jsonl --evaluation-sets in/asked.jsonl --out out --shards 2",
    "sample": "tokenizer sample --input in/docs.jsonl --out out --fraction 1 --min-sample-bytes 1",
    "train": "tokenizer train --input in/docs.jsonl --vocab-size 330 --out out",
    "extend": "tokenizer extend --base base --new new --vocab-size 300 --out out",
}
IMPORTED = (
    "tigerjax.command.cli", "tigerjax.command.table", "tigerjax.text.cleaning_page", "tigerjax.text.clean",
    "tigerjax.text.dedup", "tigerjax.text.decontaminate", "tigerjax.text.substrings",
    "tigerjax.tokenizer.sample", "tigerjax.tokenizer.train", "tigerjax.tokenizer.bpe",
)  # fmt: skip
"""What the stages import, once and not in each child."""
ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO)
HALF = (".partial", ".part", ".lock", ".removed")


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> Path:
    """The inputs of all stages."""
    folder = tmp_path_factory.mktemp("given") / "g"
    (folder / "in").mkdir(parents=True)
    for name, records in {"docs": TEXTS, "sft": SFT, "asked": QUESTIONS}.items():
        (folder / "in" / f"{name}.jsonl").write_bytes(lines(records))
    more = [
        {"id": f"m{n}", "text": f"Number {n} walks in the mountains of the north, far from all others. " * 2}
        for n in range(9)
    ]
    (folder / "in/more.jsonl").write_bytes(lines([*more, {**TEXTS[0], "id": "again"}]))
    write_added(folder / "base")
    han = [chr(0x4E00 + n) for n in range(40)]
    write_added(folder / "new", words=["▁", *han, *(a + b for a, b in itertools.pairwise(han))])
    return folder


@pytest.fixture(scope="module")
def children(tmp_path_factory):
    here = Children(tmp_path_factory.mktemp("children"), *IMPORTED)
    yield here
    here.close()


@pytest.fixture
def world(given, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(shutil.copytree(given, tmp_path / "w"))
    return tmp_path / "w"


def words(stage: str, world: Path) -> list[object]:
    return [world / word if "/" in word or word in ("out", "base", "new") else word for word in STAGES[stage].split()]


def content(out: Path) -> dict[str, object]:
    """The bytes of a stage's files, and what its manifest says, but for times and speeds."""
    found: dict[str, object] = {name: data for name, data in files_of(out).items() if name != "manifest.json"}
    made = manifest.read(out)
    assert made is not None
    made["figures"] = {
        name: value for name, value in made["figures"].items() if "_s_" not in name and name != "seconds"
    }
    return found | {name: value for name, value in made.items() if name not in ("started", "ended")}


def no_halves(world: Path) -> bool:
    return not [p for p in world.rglob("*") if p.name.endswith(HALF)]


def undisturbed(children, stage: str, world: Path) -> tuple[dict[str, object], list[int]]:
    """What the stage writes, and some of its points; nothing of it is left."""
    ended = children.run(words(stage, world), world)
    assert ended.code == 0, ended
    made = content(world / "out")
    shutil.rmtree(world / "out")
    every = range(1, ended.points + 1)
    return made, sorted(random.Random(stage).sample(every, min(POINTS, len(every))))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_at_any_point_comes_out_the_same_when_it_is_run_again(children, world, stage):
    made, points = undisturbed(children, stage, world)
    for at in points:
        ended = children.run(words(stage, world), world, at=at, do="kill")
        assert ended.code == -signal.SIGKILL
        if (world / "out").exists():
            assert content(world / "out") == made, at  # whole or absent
        again = children.run(words(stage, world), world)
        assert again.code == 0 and content(world / "out") == made, (at, again)
        assert no_halves(world), at
        shutil.rmtree(world / "out")


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_at_any_point_is_one_line_and_leaves_nothing_half_done(children, world, stage):
    made, points = undisturbed(children, stage, world)
    for at in points:
        ended = children.run(words(stage, world), world, at=at, do="interrupt")
        assert ended.code == 130 and ended.err.endswith(f"tigerjax: {INTERRUPTED}\n"), (at, ended)
        half = [p for p in world.rglob("*") if p.name.endswith(HALF) and not p.name.endswith(".lock")]
        assert "Traceback" not in ended.err and not half, (at, ended)  # the lock's file may stay, which nobody holds
        assert not (world / "out").exists() or content(world / "out") == made, at
        again = children.run(words(stage, world), world)
        assert again.code == 0 and content(world / "out") == made and no_halves(world), (at, again)
        shutil.rmtree(world / "out")


@pytest.mark.parametrize("stage", STAGES)
def test_a_disk_that_refuses_a_write_is_one_line_and_the_earlier_result_stays(children, world, stage):
    made, points = undisturbed(children, stage, world)
    for at, error in zip(points, ERRORS, strict=False):
        ended = children.run(words(stage, world), world, at=at, do=error)
        line = ended.err.rstrip("\n").split("\n")[-1]
        # A folder that cannot be removed at the end is no reason to fail.
        assert ended.code in (0, 3), (at, error, ended)
        if ended.code:
            assert line.startswith("tigerjax: ") and "Traceback" not in ended.err, (at, error, ended)
            assert not (world / "out").exists() or content(world / "out") == made
        else:
            assert content(world / "out") == made
        again = children.run(words(stage, world), world)
        assert again.code == 0 and content(world / "out") == made, (at, error, again)
        assert no_halves(world), (at, error)
        shutil.rmtree(world / "out")


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_that_may_not_grow_is_a_full_disk_in_one_line(children, world, stage):
    made, _ = undisturbed(children, stage, world)
    for most in (0, 40, 400):
        ended = children.run(words(stage, world), world, file_bytes=most)
        if ended.code:
            assert ended.code == 3 and "no space left on the disk" in ended.err.split("\n")[-2], (most, ended)
            assert not (world / "out").exists() and no_halves(world)
    assert children.run(words(stage, world), world).code == 0 and content(world / "out") == made


@pytest.mark.parametrize("stage", STAGES)
def test_an_output_that_is_removed_or_cut_is_made_again(world, stage, capsys):
    command = [*map(str, words(stage, world))]
    assert main(command) == 0
    made = content(world / "out")
    for name in sorted(files_of(world / "out")):
        for harm in ("remove", "cut"):
            path = world / "out" / name
            if harm == "cut" and not path.stat().st_size:
                continue
            os.unlink(path) if harm == "remove" else path.write_bytes(path.read_bytes()[:-1])
            capsys.readouterr()
            code = main(command)
            if name == "manifest.json":  # what a folder without it holds is not known to be ours
                assert code in (2, 3)
                shutil.rmtree(world / "out")
                assert main(command) == 0
            else:
                assert code == 0 and "the stage is done again" in capsys.readouterr().err
            assert content(world / "out") == made, (name, harm)


def test_of_two_runs_in_one_folder_the_second_is_refused_and_the_first_ends_well(children, world):
    made, points = undisturbed(children, "near", world)
    first = children.start(words("near", world), world, at=points[len(points) // 2], do="stop")
    assert children.stopped(first)  # so that it is the first that has the folder
    second = children.run(words("near", world), world)
    assert second.code == 2 and f"is in use by process {first['pid']}" in second.err, second
    os.kill(first["pid"], signal.SIGCONT)
    assert children.end(first).code == 0
    assert content(world / "out") == made and no_halves(world)


def test_a_stage_of_several_workers_that_is_killed_comes_out_the_same(children, world):
    made, _ = undisturbed(children, "exact", world)
    command = [*words("exact", world), "--workers", 2]
    points = children.run(command, world).points  # of the first process; its workers open files of their own
    assert content(world / "out") == made
    shutil.rmtree(world / "out")
    assert children.run(command, world, at=points // 2, do="kill").code == -signal.SIGKILL
    ended = children.run(command, world)
    assert ended.code == 0 and no_halves(world), ended
    assert content(world / "out") == made
