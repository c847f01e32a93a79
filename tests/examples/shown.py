"""Every command that help, README and docs show: what their readers will copy."""

import re
import shlex
from pathlib import Path

from tigerjax.command import table

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.zh.md"]
BLOCK = re.compile(r"^(?P<mark><!-- run\b[^\n]*-->\n+)?^(?P<fence>`{3,})console\n(?P<body>.*?)^(?P=fence)", re.M | re.S)
INLINE = re.compile(r"`((?:tigerjax|launch/run\.sh) [^`\n]+)`")
INDENTED = re.compile(r"^ {4}(launch/run\.sh .*)$", re.M)
MAKE = re.compile(r"`make (?:\w+=\S* )*([a-z][\w-]*)")
SCRIPT = re.compile(r"`python ((?:docs|benchmarks|tests)/[\w/]+\.py)")
TO_FILL_IN = re.compile(r"(?<![\w-])[A-Z][A-Z_]*(?![\w-])|…")
"""A word in capital letters is for the reader to fill in: such a line shows a form, and is no example."""


def in_help() -> dict[str, str]:
    """Each example of `tigerjax COMMAND --help`, and the command that shows it."""
    found = {}
    for words, command in table.COMMANDS.items():
        example = re.search(r"^ *Example: (tigerjax .*)$", command.__doc__ or "", re.M)
        found[example[1] if example else f"no example: {' '.join(words)}"] = " ".join(words)
    return found


def in_pages() -> dict[str, str]:
    """Each command of a page that its own test does not run, and the page: of blocks, and in the midst of a sentence.

    What stands below `<!-- run -->` is run by tests/docs/test_tutorials.py and tests/test_readme.py.
    """
    found: dict[str, str] = {}
    for path in PAGES:
        text, page = path.read_text(encoding="utf-8"), str(path.relative_to(ROOT))
        run_there = {line for block in BLOCK.finditer(text) if block["mark"] for line in lines(block["body"])}
        shown = [line for block in BLOCK.finditer(text) if not block["mark"] for line in lines(block["body"])]
        prose = BLOCK.sub("", text)
        shown += [re.split(r" {2,}", line)[0] for line in INDENTED.findall(prose) if not TO_FILL_IN.search(line)]
        shown += [line for line in INLINE.findall(prose) if is_example(line)]
        found |= {line: page for line in shown if line not in run_there and line not in found}
    return found


def marked_pages() -> set[str]:
    """The pages that have blocks to run."""
    return {
        str(path.relative_to(ROOT))
        for path in PAGES
        if any(block["mark"] for block in BLOCK.finditer(path.read_text(encoding="utf-8")))
    }


def lines(body: str) -> list[str]:
    """The commands of a block: `$ ` and what is continued behind a backslash, without comments."""
    joined = re.sub(r" *\\\n *(?:> )?", " ", body)
    return [re.sub(r" +# .*", "", line[2:]) for line in joined.splitlines() if line.startswith("$ ")]


def is_example(line: str) -> bool:
    """Whether a line of prose is whole: more than the name of a command, and nothing for the reader to fill in."""
    if TO_FILL_IN.search(line):
        return False
    words = shlex.split(line)[1:]
    if line.startswith("launch/"):
        return len(words) > 1
    named = max((len(c) for c in table.COMMANDS if tuple(words[: len(c)]) == c), default=0)
    names_an_option = len(words) == named + 1 and words[-1].startswith("--")
    return len(words) > named > 0 and not names_an_option
