"""HTML in texts: left-over tags are removed and entities are decoded, but code, and what is said about HTML, stays.

What is left over of a page that was scraped, and what a text says about HTML, are told apart so:

- A text that speaks of HTML, XML or markup outside of its code keeps all its tags and entities.
- So does one whose tags are few and stand like words of a sentence: "<p> begins a paragraph", "a <b> c </b>".
- In other texts a tag stays where it is named: in quotes or brackets of its own, or before the word "tag" or "element".

Each function takes time that grows with the length of the text, also for a text that somebody made to be slow.
"""

import bisect
import html
import itertools
import re
from collections.abc import Callable, Sequence
from html.entities import html5

from tigerjax.text.characters import controls, invisible, is_cjk, newlines

MARKER = re.compile(r"### (?:Instruction|Response):\n?|<pad>")
"""The chat's marker strings, as the rule `markers` finds them."""

_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")  # with its semicolon only
_ATTRIBUTE = r"""\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s<>"']+)"""
_CELLS = "td|th|option"
_LINES = "caption|dd|div|dl|dt|h[1-6]|hr|li|ol|p|table|tbody|tfoot|thead|tr|ul"
_INLINE = "a|b|br|em|font|i|img|span|strong|sub|sup|u"
_TAG = re.compile(rf"</?(?:{_INLINE}|{_CELLS}|{_LINES})(?:{_ATTRIBUTE})*\s*/?>", re.I)  # not "a<b and c>d"
_ELEMENT = re.compile(
    r"</?(?:abbr|acronym|address|applet|area|article|aside|audio|base|basefont|bdi|bdo|big|blink|blockquote|body|button"
    r"|canvas|center|cite|col|colgroup|data|datalist|del|details|dfn|dialog|dir|embed|fieldset|figcaption|figure|footer"
    r"|form|frame|frameset|head|header|hgroup|html|iframe|input|ins|kbd|label|legend|link|main|map|mark|marquee|menu"
    r"|meta|meter|nav|nobr|noframes|noscript|object|optgroup|output|param|picture|plaintext|pre|progress|q|rp|rt|ruby"
    rf"|s|samp|script|section|select|small|source|strike|style|summary|svg|template|textarea|time|title|track|tt|var"
    rf"|video|wbr|xmp|code|{_INLINE}|{_CELLS}|{_LINES})(?:{_ATTRIBUTE})*\s*/?>",
    re.I,
)
"""Any tag of HTML; `_TAG` has those of layout, which are removed."""
_SPEAKS = re.compile(
    r"(?<![a-z0-9_./<?-])(?<!doctype )(?:x?html5?|xml|sgml|markup)(?![a-z0-9_/-])|超文本|标记语言", re.I
)
"""Not a tag, nor the name of a file or of a type, as index.html and text/html are."""
MOST_WORDS = 3
"""So many tags may be words of a text that does not speak of HTML [our choice]: left-over ones come in numbers."""
_BEFORE_WORD, _BEHIND_WORD = re.compile(r"(?:^|[\s(\[（【])$"), re.compile(r"$|[\s,.;:!?)\]，。；：！？、）】]")
_SENTENCE_END = re.compile(r"[.!?。！？][\"'”’)）]*\s*$")
_LINE_END = re.compile(r"<br|</p\b", re.I)
_BLOCK = re.compile(rf"</?(?:({_CELLS})|{_LINES})\b", re.I)
_OPTION, _END_OF_OPTION = re.compile(r"<option\s*>", re.I), re.compile("</option", re.I)
_CELL, _LINE = "cell", "line"
_ANGLE = re.compile("[<>]")
_QUOTED = dict(zip("\"'“‘「『《(（[", "\"'”’」』》)）]", strict=True))
_NOUN = re.compile(r"\s{1,3}(?:tags?|elements?)\b|\s?(?:标签|元素|标记)(?!\s?</)")
_CODE_ELEMENT = "pre|code|kbd|samp|script|style|textarea|template|xmp"
_CODE = re.compile(rf"`+|~{{3,}}|<({_CODE_ELEMENT})(?![\w-])", re.I)
_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?(`{3,}|~{3,})(.*)$", re.M)
_BLANK_LINE = re.compile(r"\n[ \t]*\n")


def _fences(text: str) -> list[tuple[int, int]]:
    """[start, end) of each block between two fences (``` or ~~~); one without an end reaches to the end of the text."""
    out: list[tuple[int, int]] = []
    opened, start = "", 0
    for match in _FENCE.finditer(text):
        fence, rest = match[1], match[2]
        if not opened:
            if "`" not in rest or fence[0] == "~":
                opened, start = fence, match.start()
        elif fence[0] == opened[0] and len(fence) >= len(opened) and not rest.strip():
            out.append((start, match.end()))
            opened = ""
    return [*out, (start, len(text))] if opened else out


class _Spans:
    """Finds the end of inline code and of HTML's code elements; each end is looked up without a second reading."""

    def __init__(self, text: str):
        self._text = text
        self._runs: dict[int, list[int]] = {}
        for match in re.finditer("`+", text):
            self._runs.setdefault(len(match[0]), []).append(match.start())
        self._blanks = [match.start() for match in _BLANK_LINE.finditer(text)]
        self._unclosed: set[str] = set()
        self._closings: dict[str, list[int]] = {}

    def end_of_run(self, start: int, size: int) -> int:
        """The end of the code that `size` backticks begin, 0 for none. One or two must end within the paragraph."""
        starts = self._runs[size]
        at = bisect.bisect_right(starts, start)
        if at == len(starts):
            return 0
        blank = bisect.bisect_left(self._blanks, start)
        if size < 3 and blank < len(self._blanks) and self._blanks[blank] < starts[at]:
            return 0
        return starts[at] + size

    def end_of_element(self, start: int, name: str) -> int:
        """The start of the closing tag of an element, 0 for none."""
        if name not in self._closings:
            self._closings[name] = [m.start() for m in re.finditer(rf"</{name}\s*>", self._text, re.I)]
        closings = self._closings[name]
        at = bisect.bisect_right(closings, start)
        return closings[at] if at < len(closings) else 0


def code_spans(text: str, inline: bool = True) -> list[tuple[int, int]]:
    """[start, end) of the code in a text, in order: fenced blocks, and with `inline` also `code` and <code>."""
    if not _CODE.search(text):
        return []
    fences = _fences(text)
    if not inline:
        return fences
    out: list[tuple[int, int]] = []
    spans, at, fence = _Spans(text), 0, 0
    for match in _CODE.finditer(text):
        start = match.start()
        while fence < len(fences) and fences[fence][0] <= start:
            if fences[fence][0] >= at:  # else it begins inside of other code
                out.append(fences[fence])
                at = fences[fence][1]
            fence += 1
        if start < at or match[0][0] == "~":
            continue
        name = match[1]
        end = spans.end_of_element(start, name.lower()) if name else spans.end_of_run(start, len(match[0]))
        if end:
            out.append((start, end))
            at = end
    return out


def outside_code(text: str, apply: Callable[[str], str], inline: bool = True) -> str:
    """The text after `apply` on all that is no code."""
    spans = code_spans(text, inline)
    if not spans:
        return apply(text)
    out, at = [], 0
    for start, end in spans:
        out += [apply(text[at:start]) if at < start else "", text[start:end]]
        at = end
    return "".join([*out, apply(text[at:]) if at < len(text) else ""])


def prose(text: str) -> str:
    """The text without its code."""
    spans = code_spans(text)
    ends = [0, *(end for _, end in spans)]
    return " ".join(text[at:start] for at, start in zip(ends, [*(start for start, _ in spans), len(text)], strict=True))


def _decoded(entity: str) -> str:
    """The character of an entity, as the rules about characters leave it; the entity itself where it means none."""
    if entity[1] != "#" and entity[1:] not in html5:
        return entity
    character = html.unescape(entity)
    return entity if character == "\ufffd" else invisible(controls(newlines(character)))


def entities(text: str) -> str:
    """HTML entities become their characters, but not in code, and not in a text that speaks of HTML.

    An entity also stays where decoding it would make a tag of HTML, another entity or a marker: `&lt;b&gt;` is text
    that shows a tag.
    """
    if "&" not in text or not _ENTITY.search(text) or _SPEAKS.search(prose(text)):
        return text
    return outside_code(text, _without_entities)


def _without_entities(text: str) -> str:
    found = [(match, char) for match in _ENTITY.finditer(text) if (char := _decoded(match[0])) != match[0]]
    if not found:
        return text
    pieces, places, at, size = [], [], 0, 0  # places: where the character of each entity stands in the decoded text
    for match, char in found:
        size += match.start() - at
        places.append((size, size + len(char)))
        pieces += [text[at : match.start()], char]
        size, at = size + len(char), match.end()
    decoded = "".join([*pieces, text[at:]])
    starts = [start for start, _ in places]
    for guard in (_ELEMENT, _ENTITY, MARKER):
        for match in guard.finditer(decoded):
            for i in range(bisect.bisect_left(starts, match.start()), bisect.bisect_left(starts, match.end())):
                pieces[2 * i + 1] = found[i][0][0]
    return "".join([*pieces, text[at:]])


class _Gap(str):
    """Where a tag of a block stood, among pieces of text: `_CELL` or `_LINE`."""


def _joined(pieces: Sequence[str], after: str = "") -> str:
    """The pieces in one text. Gaps become a space or a newline between two characters that are no spaces.

    The gap of a cell is a space, but a newline next to a Chinese character, where a text has no spaces.
    """
    out: list[str] = []
    gaps: set[str] = set()
    last = ""
    for piece in [*pieces, after]:
        if isinstance(piece, _Gap):
            gaps.add(str(piece))
            continue
        if not piece:
            continue
        if gaps and last and not last.isspace() and not piece[0].isspace():
            out.append(" " if gaps == {_CELL} and not (is_cjk(last) or is_cjk(piece[0])) else "\n")
        gaps.clear()
        out.append(piece)
        last = piece[-1]
    return "".join(out)


def tags(text: str) -> str:
    """Layout tags of HTML are removed, and their contents stay; <br> and </p> become a newline.

    The tags of other blocks (cells, items, headings) keep the words apart that they stood between (`_joined`). What
    stays: tags in code, tags that the text speaks of (as the head of this file has it), and <option> in a text without
    </option>, where it is a placeholder, as in "run <option>".
    """
    if "<" not in text or not _TAG.search(text):
        return text
    said = prose(text)
    return text if _SPEAKS.search(said) or _are_words(said) else outside_code(text, _without_tags)


def _are_words(text: str) -> bool:
    """Whether the tags of a text are few, and each is a word of it."""
    found = list(itertools.islice(_TAG.finditer(text), MOST_WORDS + 1))
    return len(found) <= MOST_WORDS and all(_is_word(text, tag) for tag in found)


def _is_word(text: str, tag: re.Match[str]) -> bool:
    """Whether a tag has no attributes and stands in a line with other words, as words do: between spaces, before a
    comma, but not behind the last sentence."""
    start, end = tag.span()
    before, behind = text[text.rfind("\n", 0, start) + 1 : start], text[end:].partition("\n")[0]
    return bool(
        "=" not in tag[0]
        and _BEFORE_WORD.search(text, max(0, start - 1), start)
        and _BEHIND_WORD.match(text, end, end + 1)
        and _TAG.sub("", f"{before} {behind}").strip()
        and (behind.strip() or not _SENTENCE_END.search(before))
    )


def _without_tags(text: str) -> str:
    if not _TAG.search(text):
        return text
    pieces: list[str] = []
    opened: list[int] = []  # the pieces that begin with a "<" to which no ">" has come
    placeholders = not _END_OF_OPTION.search(text)
    at = 0
    for match in _ANGLE.finditer(text):
        place = match.start()
        if match[0] == "<":
            if at < place:
                pieces.append(text[at:place])
            opened.append(len(pieces))
            at = place
            continue
        pieces.append(text[at : place + 1])
        at = place + 1
        if not opened:
            continue
        tag = _joined(pieces[opened[-1] :])
        before = pieces[opened[-1] - 1] if opened[-1] else ""
        quote = "" if isinstance(before, _Gap) else before[-1:]
        spoken_of = text[at : at + 1] == _QUOTED.get(quote) or _NOUN.match(text, at)
        if spoken_of or not _TAG.fullmatch(tag) or (placeholders and _OPTION.fullmatch(tag)):
            opened.clear()  # no tag holds a ">"
            continue
        del pieces[opened.pop() :]
        if _LINE_END.match(tag):
            pieces.append("\n")
        elif block := _BLOCK.match(tag):
            pieces.append(_Gap(_CELL if block[1] else _LINE))
    return _joined(pieces, text[at:])
