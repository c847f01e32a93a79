"""Whether a text is program code, by its lines: those that no prose has, and the signs that code is full of.

Of windows of 500 characters of code files about six in seven are recognised (the others are licences, manuals and word
lists within them), and of as many windows of prose two in a thousand are taken for code
(benchmarks/studies/identified_languages.py).
"""

import re

SHARE = 0.4
"""The least share of the lines that look like code [our choice, as the two below]."""
LINES = 2
"""The fewest such lines: one alone is no evidence."""
SIGNS = 0.03
"""The least share of signs of code among the characters that are no blanks."""
_SIGNS = "{}()[]=;<>_$#*&|\\"
_LONGEST = 400
"""Characters of a line that are looked at."""
# What stands in a line of code and seldom in prose: ends with a bracket or semicolon, calls, operators, comments.
_CODE = re.compile(
    r"[;{}(\[\\]$|[)\]}][,;:]$|^[\])}]+$|\*/$|\w\(\)|->\w|::\w|=>|[!=<>]=|\+=|&&|\|\||\$\{|\w\[\w+\]|\$\w+"
    r"|^#(?:include|define|undef|ifn?def|if|elif|else|endif|pragma)\b|^#!|^//|^/\*|^\* |^@\w"
    r"|^\"{3}|^'{3}|^# |^>>> |^-- "
)
_ASSIGNMENT = re.compile(r"[\w$.@*&>\[\]\"' ,:-]{1,60}=\s*[^=\s]")
_KEYWORD = re.compile(
    r"(?:import|from|def|class|return|raise|yield|elif|else|try|except|finally|for|while|if|func|fn|var|let|const|package"
    r"|use|my|our|sub|local|fi|done|esac|then|struct|typedef|static|public|private|void|int|char|unsigned|extern|function"
    r"|case|break|continue|pass|with|assert|del|global|type)\b"
)
_FULL_WIDTH = re.compile("[\u3001\u3002\uff00-\uff0f\uff1a-\uff1f]")
"""Chinese and Japanese punctuation, which no line of code ends with; a comment may."""
WORDS_OF_CODE = 5
"""A line that begins with a keyword and ends as prose may, is code up to so many words."""


def _is_code(line: str) -> bool:
    if _FULL_WIDTH.search(line):
        return False
    if _CODE.search(line) or _ASSIGNMENT.match(line):
        return True
    short = line.count(" ") < WORDS_OF_CODE and not line.endswith(".")
    return bool(_KEYWORD.match(line)) and (short or line.endswith(":"))


def code_share(text: str) -> float:
    """The share of the lines of a text that look like code; 0 where the text is none."""
    lines = [line for row in text.split("\n") if (line := row.strip()[:_LONGEST].rstrip())]
    looks = sum(map(_is_code, lines))
    if looks < LINES or looks < SHARE * len(lines):
        return 0.0
    visible = sum(map(len, text.split()))
    return looks / len(lines) if sum(map(text.count, _SIGNS)) >= SIGNS * visible else 0.0
