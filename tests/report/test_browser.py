"""The report in a real browser: at a desk's and a telephone's width, light and dark. Skipped where no Chromium is."""

import html
import re
from pathlib import Path

import headless
import pytest
from made_up import HOSTILE, made_up_report
from PIL import Image

from tigerjax import pages
from tigerjax.data import inspection
from tigerjax.evaluate import scores_page
from tigerjax.pages import Table
from tigerjax.report import render
from tigerjax.text import cleaning_page, rules

SCHEMES = {"light": 1, "dark": 0}  # Blink's numbers

pytestmark = headless.needed

# A browser's window may have a least width; a frame has not. It asks the page how wide it is and what it has fetched.
FRAME = """<!doctype html><meta charset="utf-8"><style>
body{{margin:0}} iframe{{border:0;width:{width}px;height:1600px}}
</style><iframe srcdoc="{page}"></iframe><pre></pre><script>
document.querySelector("iframe").onload = (event) => {{
  const page = event.target.contentDocument, window_ = event.target.contentWindow;
  const wide = [...page.querySelectorAll("main *")].filter((e) => !e.closest(".wide") && !e.closest("svg")
    && e.getBoundingClientRect().right > {width} + 1).map((e) => e.tagName + "." + e.className);
  document.querySelector("pre").textContent = JSON.stringify([page.documentElement.scrollWidth,
    window_.performance.getEntriesByType("resource").length, wide.slice(0, 5).join(" ")]);
}};</script>"""


def browser(page: Path, *arguments: str) -> str:
    """Standard output of a headless browser on a file of ours."""
    return headless.browser(page.as_uri(), page.parent / "profile", *arguments)


def framed(page: str, width: int, folder: Path) -> Path:
    frame = folder / "frame.html"
    frame.write_text(FRAME.format(width=width, page=html.escape(page, quote=True)), encoding="utf-8")
    return frame


def measured(frame: Path, *arguments: str) -> tuple[int, int, str]:
    """(width of what can be scrolled, resources fetched, elements that stand out) of a framed page."""
    found = browser(frame, *arguments, "--virtual-time-budget=5000", "--dump-dom")
    scroll, fetched, wide = re.search(r'<pre>\[(\d+),(\d+),"(.*?)"\]</pre>', found, re.DOTALL).groups()
    return int(scroll), int(fetched), wide


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_fetches_nothing_and_follows_the_scheme(width: int, scheme: str, tmp_path: Path):
    render(made_up_report(), tmp_path / "report.html")
    frame = framed((tmp_path / "report.html").read_text(encoding="utf-8"), width, tmp_path)
    look, shot = f"--blink-settings=preferredColorScheme={SCHEMES[scheme]}", tmp_path / "shot.png"
    scroll, fetched, wide = measured(frame, look)
    assert scroll <= width and not wide, (scroll, wide)
    assert fetched == 0
    browser(frame, look, f"--screenshot={shot}", f"--window-size={width},1600")
    with Image.open(shot) as picture:
        shades = picture.convert("L").crop((0, 0, width, 1600)).histogram()
    background = max(range(256), key=shades.__getitem__)
    assert sum(n > 0 for n in shades) > 30 and shades[background] < 0.99 * sum(shades), "a blank page"
    assert background > 230 if scheme == "light" else background < 40


def test_the_other_pages_fit_a_telephone_and_fetch_nothing(tmp_path: Path):
    texts = [("before " + "x" * 300 + HOSTILE, "after\nand on the next line")] * 3
    counts = {"in": 11_111, "out": 11_110, "dropped": {"short": 1}}
    cleaning_page.write(tmp_path / "cleaning.html", counts, {"edges": 3}, {"edges": texts}, list(rules.RULES))
    table = Table(["benchmark", *(f"runs/made_up_{i}/evaluation" for i in range(5))], [["piqa", *["66.66"] * 5]])
    scores_page.write(tmp_path / "scores.html", "Evaluation", [("Scores", table)], [HOSTILE])
    for name in ("cleaning.html", "scores.html"):
        page = (tmp_path / name).read_text(encoding="utf-8").replace("<details>", "<details open>")
        scroll, fetched, wide = measured(framed(page, 390, tmp_path))
        assert scroll <= 390 and not wide and fetched == 0, (name, scroll, wide)


def test_the_page_of_a_mixture_with_many_sources_fits_a_telephone(tmp_path: Path):
    names = [f"my_pretraining_mixture.zh.newspapers_and_books_{i}" for i in range(9)]
    figures: dict = {"wanted": dict.fromkeys(names, 1 / 9), "realised": dict.fromkeys(names, 1 / 9)}
    about = {"rows": 11_111, "tokens": 1_111_111, "chars_per_token": 1.11}
    figures |= {"rows_of_an_epoch": 99_999, "sources": dict.fromkeys(names, about)}
    shares, table = inspection._sources(figures)
    row = [
        inspection.ShownToken("x" * 300, 1, 1.0, [7], False),
        inspection.ShownToken("天地玄黄\n" * 20, 2, 0.0, [8], True),
    ]
    page = {"title": f"Mixture {names[0]}", "rows": "1", "fill": "100%", "shares": shares, "table": table}
    pages.write(tmp_path / "rows.html", "data/rows.html", **page, tabs={name: [row] for name in names})
    text = (tmp_path / "rows.html").read_text(encoding="utf-8")
    scroll, fetched, wide = measured(framed(text, 390, tmp_path))
    assert scroll <= 390 and not wide and fetched == 0, (scroll, wide)


def test_a_page_that_is_too_wide_or_fetches_something_is_found(tmp_path: Path):
    page = '<main><p class="x" style="width:900px">wide</p><img src="http://made-up.invalid/dot.png"></main>'
    scroll, fetched, wide = measured(framed(page, 390, tmp_path))
    assert scroll >= 900 and fetched == 1 and wide == "P.x"
