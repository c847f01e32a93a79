"""A chat template of Hugging Face, rendered as transformers renders it: in Jinja's sandbox, with the same settings.

Templates come from strangers. The sandbox lets them change nothing and call nothing but what is listed here.
"""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.errors import DataError

BEGIN, END = "\ufdd1", "\ufdd2"
"""Put around what a `{% generation %}` block renders. Unicode promises that no text has these characters."""


class Rendered(NamedTuple):
    """The text of a dialogue, and (begin, end) in characters of each of its `{% generation %}` blocks."""

    text: str
    blocks: list[tuple[int, int]]


class Template:
    """A compiled template. `names` are the texts of bos_token, eos_token and the like, which it may write."""

    def __init__(self, source: str, names: dict[str, str], where: Path):
        """Raises DataError for a template that is not Jinja."""
        import jinja2  # the numeric core reads tokenizers' files without it

        self._names, self.where = names, where
        try:
            self._compiled = _environment().from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            what, line = " ".join(str(error).split()), getattr(error, "lineno", None)
            raise DataError(
                f"{where}: the chat template is not Jinja{f' (its line {line})' if line else ''}: {what}; give the"
                " template as it was published"
            ) from error

    def render(self, messages: Sequence[dict[str, str]], *, prompt: bool) -> Rendered:
        """The text of the messages; with `prompt`, what opens the next answer stands at its end.

        Raises DataError with the template's own words where it refuses the messages.
        """
        given = {"messages": [dict(m) for m in messages], "tools": None, "documents": None}
        try:
            text = self._compiled.render(**given, add_generation_prompt=prompt, **self._names)
        except (KeyboardInterrupt, SystemExit):
            raise
        except Exception as error:  # what a template computes may fail in any way
            what = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{self.where}: the chat template refuses a dialogue: {what}; change the dialogue or the template"
            ) from error
        return _without_marks(text)


def _without_marks(text: str) -> Rendered:
    if BEGIN not in text and END not in text:
        return Rendered(text, [])
    before, *marked = text.split(BEGIN)
    blocks: list[tuple[int, int]] = []
    for part in marked:
        inner, _, after = part.partition(END)
        blocks.append((len(before), len(before) + len(inner)))
        before += inner + after
    return Rendered(before, blocks)


def _environment() -> Any:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """`{% generation %} … {% endgeneration %}`: what the assistant writes."""

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

        def _marked(self, caller: Any) -> str:
            return BEGIN + caller() + END

    Generation.tags = {"generation"}

    class Namespace(jinja2.utils.Namespace):
        """Without attributes that begin with an underscore: they reach into Python."""

        def __setitem__(self, name: Any, value: Any) -> None:
            if isinstance(name, str) and name.startswith("_"):
                raise jinja2.exceptions.SecurityError(f"a namespace cannot have the attribute {name!r}")
            super().__setitem__(name, value)

    def raise_exception(message: Any) -> None:
        raise jinja2.TemplateError(str(message))

    def tojson(
        value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
    ) -> str:
        """Jinja's own writes < and > as HTML does."""
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.datetime.now().strftime(form),
        "namespace": Namespace,
    }
    return environment
