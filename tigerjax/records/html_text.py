"""The text that a reader sees of an HTML page: without scripts, styles and tags. One pass over the page."""

import html
import re

HIDDEN = {
    name: re.compile(f"</{name}(?![a-z0-9-])", re.I | re.A)
    for name in "script style noscript template svg math iframe object select textarea head".split()
}
"""Elements whose content is no text of the page, and how each ends."""
INLINE = frozenset(
    "a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd label mark q rb rp rt ruby s samp small"
    " span strike strong sub sup time tt u var wbr".split()
)
"""Elements inside of a line. All others begin and end one."""
CELLS = frozenset(("td", "th"))
APART = frozenset("p table h1 h2 h3 article section".split())
"""Elements with a blank line on both sides."""
MOST_TAG = 1 << 16
"""Characters of a tag; a < without an end in so many is a sign of the text."""
BEGINNING = 4096
"""Bytes in which a page names its charset."""
_META = re.compile(rb"<meta[^>]{0,400}?charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{2,40})", re.I)
_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9-]{0,40})")
_SPACES = re.compile(r"[ \t\r\n\f]+")
_AROUND = re.compile(r" ?\n ?")
_SEVERAL = re.compile(r" {2,}")
_BLANK = re.compile(r"\n{3,}")


def declared_charset(page: bytes) -> str:
    """The charset that a page names at its beginning; else nothing."""
    found = _META.search(page[:BEGINNING])
    return found[1].decode("ascii") if found else ""


def html_text(page: str) -> str:
    """The text of a page: a line for each block, a blank between the cells of a row."""
    out: list[str] = []
    at, end = 0, page.find(">")  # `end` is the first > from the tag on
    without_end: set[str] = set()  # hidden elements whose end does not stand further on
    while (begin := page.find("<", at)) >= 0:
        out.append(_SPACES.sub(" ", page[at:begin]))
        if page.startswith("<!--", begin):
            close = page.find("-->", begin + 4)
            at = len(page) if close < 0 else close + 3
            continue
        end = page.find(">", begin) if 0 <= end < begin else end
        name = _NAME.match(page, begin)
        no_tag = name is None and page[begin + 1 : begin + 2] not in ("!", "?")
        if no_tag or not 0 <= end - begin < MOST_TAG:
            out.append("<")
            at = begin + 1
            continue
        at = end + 1
        if name is None:
            continue
        element = name[1].lower()
        opens = page[begin + 1] != "/" and page[end - 1] != "/"
        if element in HIDDEN and opens and element not in without_end:
            closing = HIDDEN[element].search(page, at)
            if closing is None:
                without_end.add(element)
            else:
                close = page.find(">", closing.end())
                at = len(page) if close < 0 else close + 1
        if element in CELLS:
            out.append(" ")
        elif element not in INLINE:
            out.append("\n\n" if element in APART else "\n")
    out.append(_SPACES.sub(" ", page[at:]))
    text = _AROUND.sub("\n", _SEVERAL.sub(" ", "".join(out)))
    return html.unescape(_BLANK.sub("\n\n", text)).replace("\xa0", " ").strip()
