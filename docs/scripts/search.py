"""The index of the site's search, as a script: a page that was opened from disk may load one, but may fetch no JSON.

MkDocs' own search fetches JSON from a worker, which no browser allows to a page under file://. MkDocs calls `on_env`
here when all pages are rendered and nothing is written yet (mkdocs.yml). docs/search.js searches in the browser.
"""

import json
import re
from html.parser import HTMLParser
from typing import Any, NamedTuple

HEADINGS = {"h1", "h2", "h3", "h4"}
INSIDE_A_LINE = {"a", "b", "code", "em", "i", "kbd", "mark", "span", "strong", "sub", "sup"}
"""Tags that do not part two words: `<code>--n</code>,` is `--n,`, and a coloured command stays one command."""
REFERENCE = "reference/"
"""The folder of the pages that define options; others name them."""
OPTION = re.compile(r"^ {1,2}--([a-z](?:[\w.-]*\w)?)", re.MULTILINE)
"""An option where it is defined: at the beginning of a line of help, or of a row of a table."""


class Section(NamedTuple):
    """A heading's text, its anchor, the text below it up to the next heading, and the options that this defines."""

    title: str
    anchor: str
    text: str
    options: tuple[str, ...]


def on_env(env: Any, config: Any, files: Any) -> Any:
    """MkDocs' event: the file search/index.js joins the site."""
    from mkdocs.structure.files import File

    entries = [
        (
            file.page.title,
            section.title,
            f"{file.url}#{section.anchor}",
            section.text,
            section.options if file.src_uri.startswith(REFERENCE) else (),
        )
        for file in files.documentation_pages()
        for section in sections(file.page.content)
    ]
    script = f"var sections = {json.dumps(entries, ensure_ascii=False, separators=(',', ':'))};\n"
    files.append(File.generated(config, "search/index.js", content=script))
    return env


def sections(page: str) -> list[Section]:
    """The sections of a page's HTML.

    '<h1 id="data">Data<a class="headerlink">¶</a></h1> <p>One <code>--n</code>, and</p><p>two</p>'
        -> [Section("Data", "data", "One --n, and two", ())]
    """
    parser = _Sections()
    parser.feed(page)
    parser.close()
    found = (tuple("".join(words) for words in section) for section in parser.found)
    return [
        Section(*(" ".join(part.split()) for part in (title, anchor, text)), tuple(OPTION.findall(text)))
        for title, anchor, text in found
    ]


class _Sections(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[list[str], list[str], list[str]]] = []  # (title, anchor, text), in pieces
        self.in_heading = self.in_mark = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in HEADINGS and given.get("id"):
            self.found.append(([], [given["id"] or ""], []))
            self.in_heading = True
        elif tag == "a" and given.get("class") == "headerlink":
            self.in_mark = True
        elif tag not in INSIDE_A_LINE:
            self.handle_data(" ")

    def handle_endtag(self, tag: str) -> None:
        if tag in HEADINGS:
            self.in_heading = False
        elif tag == "a":
            self.in_mark = False
        elif tag not in INSIDE_A_LINE:
            self.handle_data(" ")

    def handle_data(self, data: str) -> None:
        if self.found and not self.in_mark:
            title, _, text = self.found[-1]
            (title if self.in_heading else text).append(data)
