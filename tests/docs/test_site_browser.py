"""The site in a real browser, opened from disk: it fits a desk and a telephone, and its search finds things."""

import html
import json
import re
from pathlib import Path

import headless
import pytest

pytestmark = headless.needed

# A browser's window may have a least width; a frame has not.
FRAMES = """<!doctype html><meta charset="utf-8">
<style>body{margin:0} iframe{border:0;width:WIDTHpx;height:900px}</style>
<pre></pre><script>(async () => {
  const found = [];
  for (const name of NAMES) {
    const frame = document.createElement("iframe");
    const loaded = new Promise((done) => { frame.onload = done; });
    frame.src = SITE + name;
    document.body.append(frame);
    await loaded;
    const page = frame.contentDocument;
    const wide = [...page.querySelectorAll("body *")].filter((e) => !e.closest("pre, table, .dropdown-menu")
      && e.getBoundingClientRect().right > WIDTH + 1).map((e) => e.tagName + "." + e.className);
    const flow = [...page.querySelectorAll(".flow")].map((e) => e.scrollWidth - e.clientWidth);
    const menu = page.querySelector(".navbar").offsetHeight;
    const modes = [...page.querySelectorAll("[data-bs-theme-value]")].slice(0, 2).map((entry) => {
      entry.click();
      return page.documentElement.dataset.bsTheme === entry.dataset.bsThemeValue;
    });
    const keys = frame.contentWindow.keyCodes !== undefined;
    found.push([name, page.documentElement.scrollWidth, menu, wide[0] || "", flow, modes, keys]);
    frame.remove();
  }
  document.querySelector("pre").textContent = JSON.stringify(found);
})();</script>"""


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_scrolls_sideways_and_the_menu_is_one_line_and_works(width: int, site: Path, tmp_path: Path):
    names = [str(path.relative_to(site)) for path in sorted(site.rglob("*.html")) if path.name != "404.html"]
    page = FRAMES.replace("NAMES", json.dumps(names)).replace("SITE", json.dumps(site.as_uri() + "/"))
    (tmp_path / "frames.html").write_text(page.replace("WIDTH", str(width)), encoding="utf-8")
    arguments = ["--allow-file-access-from-files", "--virtual-time-budget=60000", "--dump-dom"]
    out = headless.browser((tmp_path / "frames.html").as_uri(), tmp_path / "profile", *arguments)
    found = json.loads(html.unescape(re.search(r"<pre>(.*?)</pre>", out, re.DOTALL)[1]))
    assert len(found) == len(names) > 30
    for name, scroll, menu, wide, flow, modes, keys in found:
        assert scroll <= width and not wide and menu < 70 and not any(flow), (name, scroll, menu, wide, flow)
        assert modes == [True, True] and keys, (name, modes, keys)  # the theme's scripts ran to their end


def results(site: Path, folder: Path, page: str, query: str) -> list[tuple[str, str]]:
    """(address, title) of what the search of a page finds. Only the page itself is opened, under file://."""
    out = headless.browser(f"{(site / page).as_uri()}?q={query}", folder, "--virtual-time-budget=8000", "--dump-dom")
    box = re.search(r'id="mkdocs-search-results"[^>]*>(.*?)</div>', out, re.DOTALL)[1]
    return [(a, html.unescape(title)) for a, title in re.findall(r'<h3><a href="([^"]+)">(.*?)</a>', box)]


def test_search_works_from_disk_and_finds_option_names(site: Path, tmp_path: Path):
    found = results(site, tmp_path, "index.html", "--max-new-tokens")
    named = {f"Commands › tigerjax {words}" for words in ("chat", "serve", "sample", "align init")}
    assert {title for _, title in found[:4]} == named
    assert (site / found[0][0].partition("#")[0]).is_file(), found
    found = results(site, tmp_path, "tutorials/mixture.html", "optim.peak_lr")
    assert any(title.startswith("Configs › OptimConfig") for _, title in found[:3]), found
    assert found[0][0].startswith("../reference/")
    for query, title in (("--global-batch-si", "Configs › RunConfig"), ("evaluate --batch-size", "tigerjax evaluate")):
        assert any(title in name for _, name in results(site, tmp_path, "index.html", query)[:5]), query
    assert results(site, tmp_path, "index.html", "no-such-word-anywhere") == []


def test_search_reads_the_language_of_the_page_or_of_the_query(site: Path, tmp_path: Path):
    assert all("zh/" not in address for address, _ in results(site, tmp_path, "index.html", "rejection"))
    for page in ("index.html", "zh/tutorials/mixture.html"):
        assert any("zh/tutorials/vocabulary.html" in a for a, _ in results(site, tmp_path, page, "扩充词表")), page
