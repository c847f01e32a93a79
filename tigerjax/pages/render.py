"""HTML from Jinja2 templates. This file is the only place where text becomes HTML.

A template stands beside the Python that gives its values and is named from the package on: `report/run.html`.
Every `{{ value }}` of a template goes through `printable` and is then escaped by Jinja2. Python code holds no HTML,
so it has nothing to escape. A page is one file: the style sheet is inside it, and it requests nothing.
"""

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigerjax.files import paths
from tigerjax.terminal import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")
KANA_OR_HANGUL = re.compile("[\u3040-\u30ff\uac00-\ud7af]")
HAN_SHARE = 0.3  # of the letters; the same share by which `data dedup` cuts a text into characters


def is_chinese(text: object) -> bool:
    """Whether a page marks the text as Chinese: browsers then take Chinese fonts, and screen readers the right voice.

    In a template: `{% if text is chinese %}`.
    """
    text = str(text)
    han = len(HAN.findall(text))
    return han > 0 and not KANA_OR_HANGUL.search(text) and han >= HAN_SHARE * sum(map(str.isalpha, text))


@functools.cache
def _environment() -> "Environment":
    # Imported here: whoever only counts or trains does not wait for Jinja2.
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("tigerjax", ""),
        autoescape=True,
        finalize=lambda value: value if isinstance(value, Markup) else printable(value),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["chinese"] = is_chinese
    return environment


def draw(template: str, macro: str, **values: Any) -> "Markup":
    """HTML that a macro of a template makes of `values`; other templates may show it as it is."""
    from markupsafe import Markup

    made = getattr(_environment().get_template(template).module, macro)(**values)
    assert isinstance(made, Markup), f"{template}: {macro} is not escaped"
    return made


def write(path: Path, template: str, **values: Any) -> None:
    """Writes the page that a template makes of `values`. An old page is replaced as a whole or stays."""
    paths.write_text(path, _environment().get_template(template).render(**values))
