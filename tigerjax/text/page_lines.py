"""The rules about lines and sentences of one page: notices, and what the page says twice."""

import re

SENTENCE = 20
"""Characters from which on a sentence that stands before goes: shorter ones, such as "Yes, sir.", may be said twice."""
_BOILERPLATE = re.compile(
    "|".join(
        (
            r"(?:copyright|©|\(c\)) .{0,80}",
            r".{0,80}all rights reserved\.?",
            r"(?:this|our) (?:web)?site uses cookies.{0,120}",
            r"(?:share|print|email) this(?: page| article)?\.?",
            r"版权所有.{0,60}|转载请注明.{0,60}|(?:上|下)一篇[:：]?.{0,60}|分享到[:：]?.{0,40}|.{0,40}ICP备.{0,30}",
        )
    ),
    re.I,
)
# Closing quotes belong to their sentence. A period before a small letter, or behind an initial or a title, ends none.
_ENDS = re.compile(
    r"(?<=[。！？])(?![。！？”’」』）])|(?<=[。！？][”’」』）])(?![”’」』）])|(?<=\n)"
    r"|(?<=[.!?] )(?<!\b[A-Z]\. )(?<!\b(?:Mr|Dr|St|vs|No|Mt|cf)\. )(?<!\b(?:Mrs|Rev)\. )"
    r"(?<![ (]e\.g\. )(?<![ (]i\.e\. )(?![a-z])"
)


def boilerplate(text: str) -> str:
    """Lines that are only a copyright notice, a cookie notice or a navigation link are removed."""
    lines = text.split("\n")
    left = [line for line in lines if not (len(line) < 200 and _BOILERPLATE.fullmatch(line.strip()))]
    return text if len(left) == len(lines) else "\n".join(left)


def repeated_sentences(text: str) -> str:
    """A sentence, or a line, of at least SENTENCE characters that the text has before is removed.

    Rows of a drawing, which hold few letters, are none."""
    seen: set[str] = set()
    out = []
    for sentence in _ENDS.split(text):
        said = sentence.strip()
        if len(said) < SENTENCE or 2 * sum(map(str.isalnum, said)) < len(said) or said not in seen:
            out.append(sentence)
            seen.add(said)
    return "".join(out)
