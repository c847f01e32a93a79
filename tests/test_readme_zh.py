"""Chinese pages say what their English sisters say: commands, tables, figures and names, section by section."""

import importlib.util
import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TABLE = re.compile(r"(?:^\|.*\|\n)+", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\([^)]*\)")
NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
LONGEST_README = 119
PAGES = [("README.md", "README.zh.md"), ("docs/QUICKSTART.md", "docs/zh/QUICKSTART.md")]


@pytest.fixture(params=PAGES, ids=lambda names: names[0])
def both(request) -> tuple[str, str]:
    return tuple((ROOT / name).read_text(encoding="utf-8") for name in request.param)


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, code) of every fenced block; what a command's comment says is prose."""
    return [(kind, re.sub(r" +# .*", "", code)) for kind, code in FENCE.findall(text)]


def figures(text: str) -> Counter[str]:
    """Numbers, and what stands between backticks, of text outside fenced blocks and links."""
    prose = LINK.sub("]", FENCE.sub("", text))
    return Counter(NUMBER.findall(prose)) + Counter(re.findall(r"`[^`]+`", prose))


def test_the_commands_are_the_same(both):
    english, chinese = map(blocks, both)
    assert chinese == english


def test_the_tables_have_the_same_cells_up_to_words(both):
    english, chinese = ([t.splitlines() for t in TABLE.findall(text)] for text in both)
    assert len(english) == len(chinese) >= 1
    for one, other in zip(english, chinese, strict=True):
        assert len(one) == len(other), one[0]
        for row, line in zip(one, other, strict=True):
            assert [figures(cell) for cell in row.split("|")] == [figures(cell) for cell in line.split("|")], row


def test_the_quick_start_s_tables_are_the_english_ones_translated():
    spec = importlib.util.spec_from_file_location(
        "readme_figures", ROOT / "benchmarks" / "studies" / "readme_figures.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for mark, pages in module.PAGES.items():
        texts = (page.read_text(encoding="utf-8") for page in pages)
        one, other = (re.search(f"<!-- {mark} -->(.*?)<!-- /{mark} -->", text, re.DOTALL)[1] for text in texts)
        assert module.in_chinese(one) == other
        assert not re.search(r"question|answers|reward|train|seed|same", re.sub(r"`[^`]+`", "", other))


def test_every_figure_and_every_name_of_the_prose_is_there_as_often(both):
    parts = (re.split(r"^#+ ", FENCE.sub("", text), flags=re.MULTILINE) for text in both)
    for one, other in zip(*parts, strict=True):
        differing = {k: (figures(one)[k], figures(other)[k]) for k in figures(one).keys() | figures(other).keys()}
        differing = {k: v for k, v in differing.items() if v[0] != v[1]}
        assert not differing, f"in {one.splitlines()[0]!r} (figure: here, there): {differing}"


def test_both_readmes_are_two_screens():
    for name in PAGES[0]:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) <= LONGEST_README, name


def test_a_changed_figure_is_found(both):
    english, chinese = both
    changed = re.sub(r"(?<=\| )\d+(?=\.?\d)", "98765", english, count=1)
    assert changed != english and figures(changed) != figures(english)
    assert blocks(chinese) == [] or blocks(chinese) != blocks(chinese.replace("tigerjax", "tigerjaxx"))
