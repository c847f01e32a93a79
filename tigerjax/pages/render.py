"""HTML from Jinja2 templates. This file is the only place where text becomes HTML.

A template stands beside the Python that gives its values and is named from the package on: `report/run.html`.
Every `{{ value }}` of a template goes through `printable` and is then escaped by Jinja2. Python code holds no HTML,
so it has nothing to escape. A page is one file: the style sheet is inside it, and it requests nothing.
"""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigerjax.files import paths
from tigerjax.terminal import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


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
