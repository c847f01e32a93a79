"""The text that a reader sees of an HTML page: without scripts, styles and tags. One pass over the page."""

import html
import re

HIDDEN = {
    name: re.compile(f"</{name}(?![a-z0-9-])", re.I | re.A)
    for name in "script style noscript template svg math iframe object select textarea head".split()
}
"""Elements whose content is no text of the page, and how each ends."""
RAW = frozenset(("script", "style"))
"""Of these nothing is text even where the end of the page cuts them."""
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
MOST_VALUE = 1 << 10
"""Characters of a quoted value behind its first >."""
BEGINNING = 4096
"""Bytes in which a page names its charset."""
_META = re.compile(rb"<meta[^>]{0,400}?charset\s{0,9}=\s{0,9}[\"']?([\w.:-]{2,40})", re.I)
_NAME = re.compile(r"</?([a-zA-Z][a-zA-Z0-9-]{0,40})")
_WHOLE_VALUES = re.compile(r"=\s{0,9}(?:\"[^\"]*\"|'[^']*')")
_VALUE = re.compile(r"=\s{0,9}([\"'])")
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
    parts: list[str] = []  # what is finished
    out: list[str] = []
    as_it_stands = False  # within <pre>, whose blanks and newlines a reader sees
    at, end = 0, page.find(">")  # `end` is the first > from the tag on
    without_end: set[str] = set()  # hidden elements whose end does not stand further on
    while (begin := page.find("<", at)) >= 0:
        out.append(page[at:begin] if as_it_stands else _SPACES.sub(" ", page[at:begin]))
        if page.startswith("<!--", begin):
            close = page.find("-->", begin + 4)
            at = len(page) if close < 0 else close + 3
            continue
        end = page.find(">", begin) if 0 <= end < begin else end
        name = _NAME.match(page, begin)
        no_tag = name is None and page[begin + 1 : begin + 2] not in ("!", "?")
        if end < 0 and name is not None and len(page) - begin < MOST_TAG:  # the page was cut in a tag
            at = len(page)
            break
        if no_tag or not 0 <= end - begin < MOST_TAG:
            out.append("<")
            at = begin + 1
            continue
        close = _tag_end(page, begin, end)
        at = close + 1
        if name is None:
            continue
        element = name[1].lower()
        opens = page[begin + 1] != "/" and page[close - 1] != "/"
        if element in HIDDEN and opens and element not in without_end:
            closing = HIDDEN[element].search(page, at)
            if closing is None and element in RAW:
                at = len(page)
            elif closing is None:
                without_end.add(element)
            else:
                close = page.find(">", closing.end())
                at = len(page) if close < 0 else close + 1
        if element == "pre" and as_it_stands != opens:
            parts.append(_laid_out(out, as_it_stands))
            out, as_it_stands = [], opens
        elif element in CELLS:
            out.append(" ")
        elif element not in INLINE:
            out.append("\n\n" if element in APART else "\n")
    out.append(page[at:] if as_it_stands else _SPACES.sub(" ", page[at:]))
    return "\n\n".join(filter(None, [*parts, _laid_out(out, as_it_stands)]))


def _tag_end(page: str, begin: int, end: int) -> int:
    """Where a tag ends whose first > is at `end`: that may stand in a quoted value."""
    for _ in range(4):  # of a tag with more such values, the rest is text
        open_value = _VALUE.search(_WHOLE_VALUES.sub("", page[begin:end]))
        if open_value is None:
            return end
        closing = page.find(open_value[1], end, end + MOST_VALUE)
        after = page.find(">", closing, closing + MOST_VALUE) if closing >= 0 else -1
        if after < 0:
            return end
        end = after
    return end


def _laid_out(pieces: list[str], as_it_stands: bool) -> str:
    """The text of the pieces, whose newlines and blanks are those of the layout, or of the page itself."""
    text = "".join(pieces)
    if as_it_stands:
        return html.unescape(text.replace("\r\n", "\n")).replace("\xa0", " ").strip("\n").rstrip()
    text = _AROUND.sub("\n", _SEVERAL.sub(" ", text))
    return html.unescape(_BLANK.sub("\n\n", text)).replace("\xa0", " ").strip()
