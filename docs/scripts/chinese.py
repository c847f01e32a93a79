"""Keeps the Chinese pages in step with the English ones: the same blocks of commands, files and output.

docs/zh/PAGE.md is docs/PAGE.md in Chinese. The fenced blocks of both, with the marks above them (pages.py), are equal
and in the same order, and so are message and exit code of each row of the errors page. The prose is written by hand.

    python docs/scripts/chinese.py            copies them from the English pages
    python docs/scripts/chinese.py --check    exits 1 and names each Chinese page that is out of step
"""

import argparse
import difflib
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
CHINESE = DOCS / "zh"
BLOCK = re.compile(
    r"^(?:<!-- (?:run\b|file: )[^\n]*-->[ \t]*\n+)?(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)[ \t]*$",
    re.MULTILINE | re.DOTALL,
)
MESSAGE = re.compile(r"^\| `.+?` \| \d+ \|", re.MULTILINE)
"""The beginning of a row of the errors page: | `message` | exit code |"""
ALIKE = 0.6
"""From this share of common words on, a row holds the same message, reworded."""


def in_step(english: str, chinese: str, name: str) -> str:
    """The Chinese page with the blocks and messages of the English one; ValueError where one has no counterpart.

    A message stands beside its cause in Chinese. So the places of messages must agree too: one row that was removed and
    one that was added elsewhere would put every message between them beside the cause of its neighbour.
    """
    for what, pattern in (("blocks", BLOCK), ("messages", MESSAGE)):
        theirs, ours = ([m[0] for m in pattern.finditer(page)] for page in (english, chinese))
        if len(theirs) != len(ours) or (what == "messages" and not _paired(theirs, ours)):
            counts = f"{name}: {len(ours)} {what}, but the English page has {len(theirs)}"
            missing, extra = _first(theirs, ours), _first(ours, theirs)
            differ = f"missing here: {missing}; not there: {extra}" if missing or extra else "in another order"
            raise ValueError(f"{counts}; {differ}")
        copies = iter(theirs)
        chinese = pattern.sub(lambda _, copies=copies: next(copies), chinese)
    return chinese


def _paired(theirs: list[str], ours: list[str]) -> bool:
    """Whether each row stands in the place of the same message, or of one that was only reworded."""
    return all(
        there == here or (there not in ours and here not in theirs and _alike(there, here))
        for there, here in zip(theirs, ours, strict=True)
    )


def _alike(there: str, here: str) -> bool:
    first, second = (row.split("`")[1].split() for row in (there, here))
    return difflib.SequenceMatcher(None, first, second, autojunk=False).ratio() >= ALIKE


def _first(blocks: list[str], others: list[str]) -> str:
    """The first lines of the blocks (or rows) that are not among the others."""
    lines = (block.splitlines() for block in blocks if block not in others)
    return ", ".join(next((line for line in found if line.startswith("$ ")), found[0]).strip("| ") for found in lines)


def refresh(page: Path, *, write: bool) -> str:
    """What is wrong with a Chinese page or, after writing, what was done; empty when it is in step."""
    name = str(page.relative_to(DOCS))
    original = DOCS / page.relative_to(CHINESE)
    if not original.is_file():
        return f"{name}: there is no English page {original.relative_to(DOCS)}"
    now = page.read_text(encoding="utf-8")
    try:
        made = in_step(original.read_text(encoding="utf-8"), now, name)
    except ValueError as error:
        return str(error)
    if made == now:
        return ""
    if not write:
        return f"{name}: its blocks differ from those of the English page; python docs/scripts/chinese.py copies them"
    page.write_text(made, encoding="utf-8")
    return f"wrote {name}"


def follow(original: Path) -> str:
    """What was done to the Chinese page of an English one that has changed; empty where there is none."""
    inside = original.resolve().is_relative_to(DOCS)
    page = CHINESE / original.resolve().relative_to(DOCS) if inside else original
    return refresh(page, write=True) if inside and page.is_file() else ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    lines = [refresh(page, write=not args.check) for page in sorted(CHINESE.rglob("*.md"))]
    for line in filter(None, lines):
        print(line)
    return int(any(line and not line.startswith("wrote ") for line in lines))


if __name__ == "__main__":
    sys.exit(main())
