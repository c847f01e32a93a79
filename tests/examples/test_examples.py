"""Every example of help, README and docs is run, in a small world whose files have the names that the examples use."""

import io
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import corpus_stories
import plan_stories
import pytest
import shown
import small_world
import stories
from stories import Line

from tigerjax.command import cli, next_step, table

PRECISION = "JAX_DEFAULT_MATMUL_PRECISION"
DOCUMENTED = (0, 4, 5)
"""Done; waits for people; a gate refused."""


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("small_world")
    small_world.texts(folder)
    small_world.models(folder)
    small_world.configs(folder, "small")
    return folder


@pytest.fixture
def here(tmp_path, monkeypatch) -> Iterator[Path]:
    """An empty current folder, from which commands import a reader's modules."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield Path()
    for name in ("my_mixture", "pretrain"):
        sys.modules.pop(name, None)


def told(lines: list[Line], capfd: pytest.CaptureFixture[str], run: Callable[[list[str]], int] = cli.main) -> list[str]:
    """Runs lines in the current folder, one after another, and returns what went wrong."""
    wrong = []
    for line in lines:
        typed = line.shown
        for word, instead in line.with_.items():
            assert word in typed, line
            typed = typed.replace(word, instead)
        if line.before is not None:
            line.before()
        capfd.readouterr()
        words = shlex.split(typed)
        with mock.patch("sys.stdin", io.StringIO(line.types)):
            code = run(words[1:]) if words[0] == "tigerjax" else subprocess.run(["bash", "-c", typed]).returncode
        err = capfd.readouterr().err
        if code not in (line.code, line.also):
            wrong.append(f"{typed}\n  exits {code} and not {line.code}: {err[-500:]}")
        if words[0] == "tigerjax" and not code and named_next(words[1:]) != ("\nnext: tigerjax " in f"\n{err}"):
            wrong.append(f"{typed}\n  names no next command: {err[-500:]}")
    return wrong


def named_next(words: list[str]) -> bool:
    """Whether a command ends by naming the next one."""
    command = max((known for known in table.COMMANDS if tuple(words[: len(known)]) == known), key=len)
    return command not in next_step.LAST and not next_step.NEXT[command].startswith("cd ")


def run(story: list[Line], world: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(world, Path(), dirs_exist_ok=True, symlinks=True)
    wrong = told(story, capfd)
    assert not wrong, "\n".join(wrong)


def test_examples_about_texts_tokenizers_and_conversion_run(world, here, capfd):
    run([*stories.TEXTS, *corpus_stories.CORPUS], world, capfd)


def test_examples_about_runs_answers_rewards_and_evaluation_run(world, here, capfd):
    run(stories.RUNS, world, capfd)


def test_examples_about_rounds_with_people_run(world, here, capfd):
    run(stories.ROUNDS, world, capfd)


def of_its_own(words: list[str]) -> int:
    """The exit code of `tigerjax WORDS` in a process as a user starts it."""
    environment = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", PRECISION)}
    here = Path(__file__).resolve()
    path = os.pathsep.join(map(str, (here.parents[2], here.parents[1], here.parent, os.getcwd())))
    command = [sys.executable, "-m", "tigerjax", *words]
    return subprocess.run(command, env=environment | {"PYTHONPATH": path}).returncode


@pytest.mark.slow
@pytest.mark.tpu
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("story", ["PLANS", "SEARCHES"])
def test_examples_about_plans_run(story, here, capfd):
    """In processes of their own: the TPU compiler refuses bfloat16 products at the precision that tests set."""
    small_world.configs(here, "planned")
    wrong = told(getattr(plan_stories, story), capfd, of_its_own)
    assert not wrong, "\n".join(wrong)


def test_examples_about_launching_and_a_checkout_run(here, monkeypatch, capfd):
    """In what stands for a checkout, with its .venv."""
    for name in ("configs", "launch"):  # copies: a config behind a link would lie outside of the checkout
        shutil.copytree(shown.ROOT / name, here / name)
    for name in ("data_mixtures", "tigerjax"):
        (here / name).symlink_to(shown.ROOT / name)
    (here / "tests" / "golden").mkdir(parents=True)
    (here / ".venv" / "bin").mkdir(parents=True)
    for name, words in (("python", ""), ("tigerjax", " -m tigerjax")):
        program = here / ".venv" / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{words} "$@"\n', encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(shown.ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]))
    wrong = told(stories.LAUNCHES, capfd)
    assert not wrong, "\n".join(wrong)


ALL = [
    stories.TEXTS,
    corpus_stories.CORPUS,
    stories.RUNS,
    stories.ROUNDS,
    stories.LAUNCHES,
    plan_stories.PLANS,
    plan_stories.SEARCHES,
]


def test_every_example_is_run_or_has_a_reason():
    executed = {line.shown for story in ALL for line in story}
    shown_somewhere = shown.in_help() | shown.in_pages()
    assert len(shown.in_help()) == len(table.COMMANDS) and len(shown_somewhere) > 70
    known = executed | stories.ELSEWHERE.keys()
    neither = {line: place for line, place in shown_somewhere.items() if line not in known}
    assert not neither, "\n".join(f"{place}: {line}" for line, place in neither.items())
    gone = known - shown_somewhere.keys()
    assert not gone, "no page shows them any more:\n" + "\n".join(gone)
    assert not executed & stories.ELSEWHERE.keys()


def test_a_line_that_is_changed_or_that_does_not_end_in_0_has_a_reason():
    for line in (line for story in ALL for line in story):
        assert line.code in DOCUMENTED and line.also in (None, *DOCUMENTED), line
        assert bool(line.why) or not (line.with_ or line.code or line.also), line
    assert all(stories.ELSEWHERE.values())


def test_every_page_with_blocks_to_run_is_run_by_its_own_test():
    """README, and the tutorials; the Chinese pages have the English commands (tests/docs, tests/test_readme_zh.py)."""
    own = {"README.md", *(f"docs/tutorials/{path.name}" for path in (shown.ROOT / "docs" / "tutorials").glob("*.md"))}
    in_chinese = {"README.zh.md", *(name.replace("docs/", "docs/zh/") for name in own)}
    assert shown.marked_pages() <= own | in_chinese


def test_programs_and_scripts_that_pages_name_are_there():
    makefile = (shown.ROOT / "Makefile").read_text(encoding="utf-8")
    for page in shown.PAGES:
        text = page.read_text(encoding="utf-8")
        for target in shown.MAKE.findall(text):
            assert f"\n{target}:" in makefile, (page.name, target)
        for script in shown.SCRIPT.findall(text):
            assert (shown.ROOT / script).is_file(), (page.name, script)


def test_an_example_of_prose_is_told_from_a_name_and_from_a_form():
    assert shown.is_example("tigerjax report runs/align") and shown.is_example("tigerjax train my_run.py --dry-run")
    for line in ("tigerjax train", "tigerjax reward train --preferences", "tigerjax train CONFIG", "tigerjax x … y"):
        assert not shown.is_example(line), line
    assert shown.lines("$ a \\\n    b  # why\nprinted\n$ c\n") == ["a b", "c"]
