"""Every tutorial runs as its reader would type it, and what it pastes is what is printed."""

import re
import shlex
from pathlib import Path

import pages
import pytest

from tigerjax.command import arguments, options, project, starter_files, table

MINUTES_LONG = {
    "hugging_face": 900,
    "mixture": 900,
    "plan_70b": 1800,
    "rejection_sampling": 900,
    "your_own_model": 1800,
}
"""Seconds that the slow ones (above half a minute) may take, on two cores that another test worker shares."""
WITH_PEERS = {"hugging_face", "vocabulary"}
"""Those that print a comparison with transformers."""
TUTORIALS = sorted(pages.TUTORIALS.glob("*.md"))
ALL_PAGES = sorted((pages.ROOT / "docs").rglob("*.md"))


def marks(name: str) -> list[pytest.MarkDecorator]:
    """The marks of a tutorial's test."""
    slow = [pytest.mark.slow, pytest.mark.timeout(MINUTES_LONG[name])] if name in MINUTES_LONG else []
    return slow + ([pytest.mark.peers] if name in WITH_PEERS else [])


@pytest.mark.parametrize("path", [pytest.param(p, marks=marks(p.stem)) for p in TUTORIALS], ids=lambda p: p.stem)
def test_a_tutorial_runs_and_shows_what_it_prints(path: Path, tmp_path: Path):
    _, wrong = pages.run(path.read_text(encoding="utf-8"), tmp_path)
    assert not wrong, "\n".join([*wrong, f"python docs/scripts/pages.py {path.relative_to(pages.ROOT)} rewrites it"])


def tigerjax_commands(text: str) -> list[list[str]]:
    """The words of every `$ tigerjax …` in a page that names no placeholder, without pipes and what follows them."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        for line in re.sub(r"\\\n", " ", block).splitlines():
            for part in re.split(r"\|\||&&|[|>;]", line.removeprefix("$ ")) if line.startswith("$ ") else []:
                if part.strip().startswith("tigerjax ") and "…" not in part:
                    found.append(shlex.split(part, comments=True)[1:])
    return found


FILLED = {name: '["x"]' for name in "raw docs sft zh texts preferences".split()} | {
    "evaluation_set": '"x"',
    "base": '"x"',
    "tokenizer": '"x"',
    "import_base": '"convert from-hf x y"',
    "run": "sft",
    "why": "",
    "train_base": "",
    "train": 300,
    "size": 300,
    "multiple": 9,
}
PARTS = "CLEAN DOCUMENTS TOKENIZER IMPORT GROWN TRAIN REWARD ALIGN EXPORT".split()
PROJECT = "".join(getattr(starter_files, f"{part}_TOML").format(**FILLED) for part in PARTS)
"""The project file that `tigerjax new` writes, for the pages that work in such a folder."""


@pytest.mark.parametrize("path", ALL_PAGES, ids=lambda p: p.stem)
def test_every_command_of_every_page_has_arguments_that_exist(path: Path, monkeypatch):
    """Binding only: configs that a tutorial writes are played by one of the repository's."""
    monkeypatch.chdir(pages.ROOT)
    text = path.read_text(encoding="utf-8")
    tables = project.parsed(PROJECT, table.COMMANDS) if "$ tigerjax new " in text else []
    for given in tigerjax_commands(text):
        if given[0].startswith("-"):
            continue
        words = next(words for words in table.COMMANDS if tuple(given[: len(words)]) == words)
        command = table.COMMANDS[words]
        rest = project.complete(tables, words, command, given[len(words) :])
        if options.takes_config(command) and rest[0] != "--help":
            rest = [rest[0] if Path(rest[0]).is_file() else "configs/llama2_tiny.py", *rest[1:]]
        if words == ("report",) and tables and not rest:
            rest = ["runs/align"]  # it looks for what the project has made, and nothing has run here
        arguments.bind(command, rest, "tigerjax")


PLANTED = """# A title
<!-- file: said.txt -->
```text
one
```
<!-- run: shown -->
```console
$ cat said.txt && \\
    echo "took 3.2 s, loss 1.00"
one
took 9.9 s, loss 1.01
$ echo two
three
```
<!-- run: varies -->
```console
$ echo anything
something
```
<!-- run -->
```console
$ test -f configs/llama2_tiny.py
not compared
$ false
$ echo never
```
"""


def test_output_is_compared_regenerated_and_a_failure_stops_the_page(tmp_path: Path):
    made, wrong = pages.run(PLANTED, tmp_path)
    assert [w.splitlines()[0] for w in wrong] == ["line 12: $ echo two", "line 24: $ false"]
    assert "the page says  three" in wrong[0] and "exits 1" in wrong[1]
    assert "one\ntook 9.9 s, loss 1.01\n$ echo two\ntwo\n```" in made  # the first is in step and stays
    assert "$ echo anything\nanything\n```" in made and "not compared\n" in made


def test_output_that_would_end_its_own_block_needs_a_longer_fence(tmp_path: Path):
    page = "<!-- run: shown -->\n{0}console\n$ echo '```'; echo two\n{0}\n"
    made, wrong = pages.run(page.format("```"), tmp_path)
    assert made == page.format("```") and "longer fence" in wrong[0]
    made, _ = pages.run(page.format("````"), tmp_path)
    assert made == "<!-- run: shown -->\n````console\n$ echo '```'; echo two\n```\ntwo\n````\n"


def test_only_what_measures_the_machine_may_differ():
    assert not pages.differs("rows 12  seconds 1.5\nsha 0123456789abcdef", "rows  12 seconds  99\nsha fedcba9876543210")
    assert not pages.differs("sampled 5/10 (50%)\nloss 8.476 nats  11k tok/s", "loss 8.477 nats  9.3k tok/s")
    assert not pages.differs("step 1", "continued.instruct 1 rows\nmix.zh.all 4,140 rows 241/s\nstep 1")
    for old, new in (
        ("step 1", "step 1\n12 rows"),
        ("rows 12", "rows 13"),
        ("loss 8.4", "loss 7.9"),
        ("a", "a\nb"),
        ("dropped 1", "kept 1"),
    ):
        assert pages.differs(old, new), (old, new)


@pytest.mark.parametrize("text", ["<!-- run -->\nprose\n", "<!-- run -->\n```console\nonly output\n```\n"])
def test_a_mark_that_marks_nothing_is_an_error(text: str):
    with pytest.raises(ValueError, match="mark"):
        pages.steps(text)
