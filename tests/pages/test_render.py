"""Text becomes HTML in one place, and what reaches a page or a terminal can do no harm there."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

import tigerjax
from tigerjax.pages import Table, draw, write
from tigerjax.pages.charts import stacked
from tigerjax.pages.tables import plain, print_framed
from tigerjax.terminal import printable

PACKAGE = Path(tigerjax.__file__).parent
BY_HAND = re.compile(
    r"html\.escape|saxutils|Markup\(|\|\s*safe\b|\|\s*e\b|\|\s*forceescape|autoescape false"
    r"|</(?!s>)\w+>"  # `</s>` is a token, no tag
)


def escaped_by_hand(text: str) -> list[str]:
    """Places of a Python file or template that escape by themselves, or hold HTML outside of a template."""
    return [m[0] for m in BY_HAND.finditer(text)]


def strings(source: str) -> str:
    """What a Python file says without its docstrings and comments."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            node.value.value = ""
    return ast.unparse(tree)


def test_no_other_file_escapes_or_writes_html():
    rooms = ["pages", "report", "evaluate", "text", "data", "align"]
    python = [p for room in rooms for p in sorted((PACKAGE / room).rglob("*.py"))]
    found = {p.name: made for p in python if (made := escaped_by_hand(strings(p.read_text(encoding="utf-8"))))}
    assert found == {}
    templates = sorted(PACKAGE.rglob("*.html"))
    assert len(templates) >= 5
    for path in templates:
        text = re.sub(r"</\w+>", "", path.read_text(encoding="utf-8"))
        assert not escaped_by_hand(text), path


@pytest.mark.parametrize("planted", ["html.escape(x)", "Markup('<b>')", "f'<td>{x}</td>'", "{{ x | safe }}", "{{x|e}}"])
def test_planted_html_is_found(planted: str):
    assert escaped_by_hand(planted)


def test_what_a_page_may_not_hold_is_replaced_and_the_rest_escaped():
    made = stacked({"a<\x07\ud800中": 1.0}, {"a<\x07\ud800中": '"b" & \x1b[31m'})
    assert "a&lt;\ufffd\ufffd中" in made and "&#34;b&#34; &amp; \ufffd[31m" in made
    assert printable("a\tb\nc\r\x00\x7f\x9b\ufffe\udfff中😀") == "a\tb\nc\ufffd\ufffd\ufffd\ufffd\ufffd\ufffd中😀"


def test_a_table_s_cells_and_heads_are_escaped():
    made = draw("pages/parts.html", "table", table=Table(["<b>"], [["<i onclick=x>"]]))
    assert "<b>" not in made and "<i" not in made and "&lt;i onclick=x&gt;" in made


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("首都是都柏林。", True),
        ("Python 的列表推导式怎么写？", True),
        ("The capital is 都柏林, as far as I know.", False),
        ("東京はどこですか", False),
        ("1 + 1 = 2", False),
        ("", False),
    ],
)
def test_chinese_text_is_marked_for_browsers_and_screen_readers(text: str, chinese: bool):
    made = draw("pages/parts.html", "table", table=Table(["head"], [[text]]))
    assert ('<td lang="zh-Hans">' in made) is chinese


def test_a_wide_table_scrolls_in_its_own_box_that_the_keyboard_reaches():
    made = draw("pages/parts.html", "table", table=Table(["head"], [["cell"]]))
    assert made.strip().startswith('<div class="wide" tabindex="0"><table')
    style = (PACKAGE / "pages/style.css").read_text(encoding="utf-8")
    assert re.search(r"\.wide \{[^}]*overflow-x: auto", style) and re.search(r"pre \{[^}]*overflow-x: auto", style)


def test_a_value_that_a_template_lacks_is_an_error_and_no_page(tmp_path: Path):
    from jinja2 import UndefinedError

    with pytest.raises(UndefinedError, match="title"):
        write(tmp_path / "page.html", "pages/page.html")
    assert not list(tmp_path.iterdir())


def test_a_plain_table_is_aligned_and_holds_no_control_character():
    table = Table(["name", "score"], [["中文", "1.00"], ["\x1b[31mred", "10.00"]])
    assert plain(table).splitlines() == ["name      score", "中文       1.00", "\ufffd[31mred  10.00"]


def test_a_framed_table_reads_no_markup_and_holds_no_control_character(capsys: pytest.CaptureFixture[str]):
    print_framed(Table(["[red]h"], [["[bold]\x1b[31m\x07"]]), "\x1btitle", Console(width=60))
    out = capsys.readouterr().out
    assert "[bold]\ufffd[31m\ufffd" in out and "[red]h" in out and "\ufffdtitle" in out and "\x1b" not in out


def test_pages_are_imported_without_waiting_for_jinja2():
    code = "import sys, tigerjax.pages.charts; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent).returncode == 0
