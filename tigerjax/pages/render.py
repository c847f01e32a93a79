"""HTML from Jinja2 templates. This file is the only place where text becomes HTML.

A template stands beside the Python that gives its values and is named from the package on: `report/run.html`.
Every `{{ value }}` of a template goes through `printable` and is then escaped by Jinja2. Python code holds no HTML,
so it has nothing to escape. A page is one file: the style sheet is inside it, and it requests nothing.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigerjax.files import paths

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

REPLACEMENT = "\ufffd"
LONGEST = 1500  # characters of a line in a terminal


def printable(text: object) -> str:
    """The text without what must not reach a page or a terminal; each such character becomes U+FFFD.

    Those are control characters (ESC could recolour a terminal or move its cursor), halves of surrogate pairs, and
    U+FFFE and U+FFFF. Newline and tab stay.
    """
    return "".join(REPLACEMENT if _refused(ord(c)) and c not in "\n\t" else c for c in str(text))


def in_short(text: str) -> str:
    """The text, in which lines of more than LONGEST characters lose their middle: a value of the user may be as long as
    a book, and the advice stands at the end."""
    cut = [
        line if len(line) <= LONGEST else f"{line[: LONGEST * 2 // 3]} … {line[-LONGEST // 3 :]}"
        for line in text.split("\n")
    ]
    return "\n".join(cut)


def _refused(code: int) -> bool:
    return code < 0x20 or 0x7F <= code <= 0x9F or 0xD800 <= code <= 0xDFFF or code in (0xFFFE, 0xFFFF)


@functools.cache
def _environment() -> "Environment":
    # Imported here: whoever only counts or trains does not wait for Jinja2.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    return Environment(
        loader=PackageLoader("tigerjax", ""),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def draw(template: str, macro: str, **values: Any) -> "Markup":
    """HTML that a macro of a template makes of `values`; other templates may show it as it is."""
    from markupsafe import Markup

    made = getattr(_environment().get_template(template).module, macro)(**values)
    assert isinstance(made, Markup), f"{template}: {macro} is not escaped"
    return made


def write(path: Path, template: str, **values: Any) -> None:
    """Writes the page that a template makes of `values`. An old page is replaced as a whole or stays."""
    paths.write_text(path, _environment().get_template(template).render(**values))
