"""The pages about long rows show the figures that were measured."""

import json
import re
from pathlib import Path

import pytest


@pytest.fixture
def length(monkeypatch):
    """The script."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"
    for name in ("speed", "studies"):
        monkeypatch.syspath_prepend(str(folder / name))
    import length

    return length


def test_both_pages_have_the_tables_of_the_stored_figures(length):
    record = json.loads((length.DOCS / "long_context" / "figures.json").read_text(encoding="utf-8"))
    made = length.measured(record)
    for page, text in ((length.PAGE, made), (length.CHINESE_PAGE, length.in_chinese(made))):
        stands = page.read_text(encoding="utf-8").partition(length.START)[2].partition(length.END)[0].strip()
        assert stands == text, f"{page.name}: python benchmarks/studies/length.py --write writes it"


@pytest.mark.parametrize("seeds", [["0"], ["0", "1"]])
def test_the_chinese_tables_have_no_english_sentence_left(length, seeds):
    record = json.loads((length.DOCS / "long_context" / "figures.json").read_text(encoding="utf-8"))
    record["seeds"] = dict.fromkeys(seeds, record["seeds"]["0"])
    text = re.sub(r"`[^`]*`|\[\S+\]\(\S+\)|\(\S+\)", "", length.in_chinese(length.measured(record)))
    assert {*re.findall(r"[A-Za-z]\w+", text)} <= {*length.KINDS, "token", "nats", "dd3b"}
