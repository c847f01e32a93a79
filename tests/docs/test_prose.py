"""Turns of phrase over which readers stumbled: they do not come back, in pages, docstrings and messages."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNTED = (
    "tokens|characters|bytes|rows|candidates|answers|replies|ms|seconds|log-probability|nats|GB|MB|TFLOP|links"
    "|questions|columns|prompts|labels|samples|pairs|lines|hours"
    "|one(?: (?:JSON|more|next))?(?: (?:object|record|question|line|file|tab|section|process|folder|prompt|entry"
    "|sentence|row|token|compilation|kernel|index|source))?"
)
EACH = (
    "token|step|layer|chip|device|host|row|prompt|second|weight|seed|question|document|slice|chunk|source|line|length"
    "|stage|slot|candidate|tensor|shard|task|language|case|GPU|bin|group"
)
PER = re.compile(rf"\b(?:{COUNTED}) an? (?:{EACH})\b", re.IGNORECASE)
"""`tokens a second` for `tokens per second`."""
RESUMES = re.compile(r"\b(?:runs?|command|rounds?|search|conversion|one|restart|export|sampling step) goes on\b")
"""`an interrupted run goes on` for `resumes`."""


def sources() -> list[Path]:
    """Pages in English, code, and the scripts that write pages."""
    pages = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")]
    code = [p for room in ("tigerjax", "launch", "configs", "benchmarks") for p in (ROOT / room).rglob("*.py")]
    return sorted([*pages, *code])


@pytest.mark.parametrize("pattern", [PER, RESUMES], ids=["per", "resumes"])
def test_a_phrase_that_must_be_read_twice_does_not_come_back(pattern: re.Pattern[str]):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        for match in pattern.finditer(line)
    ]
    assert len(sources()) > 200 and not found, found


def test_the_phrases_are_found_and_their_neighbours_are_not():
    for text in ("1,788 tokens a second", "one JSON object a line", "two links a chip", "one a line", "GB a chip"):
        assert PER.search(text), text
    for text in ("one of a line", "tokens per second", "a token in a row", "one in a row", "once a step"):
        assert not PER.search(text), text
    assert RESUMES.search("an interrupted run goes on.") and not RESUMES.search("while the sun goes on")
