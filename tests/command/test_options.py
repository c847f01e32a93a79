"""The options of every command, frozen: a change of one shows as a changed line of tests/golden/options.txt.

A wanted change rewrites the file:  PYTHONPATH=. python tests/command/test_options.py > tests/golden/options.txt
"""

from collections.abc import Iterator
from pathlib import Path

from tigerjax.command import options, table
from tigerjax.config import RunConfig

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "options.txt"


def lines() -> Iterator[str]:
    """A section a command, a line an option: name, type, default. The fields of a run come last."""
    for words, command in table.COMMANDS.items():
        with_config = options.takes_config(command)
        yield f"tigerjax {' '.join(words)}{' CONFIG' if with_config else ''}"
        yield from sorted(map(line, options.of_command(command)))
    yield "fields of CONFIG"
    yield from sorted(map(line, options.of_config(RunConfig)))
    yield "fields of CONFIG with other objectives"
    yield from sorted(map(line, options.of_subclasses(RunConfig)))


def line(option: options.Option) -> str:
    default = "required" if option.default is options.REQUIRED else f"default {option.default!r}"
    return f"    {option.name} {option.kind or '(switch)'}, {default}"


def test_no_option_of_any_command_has_changed():
    assert list(lines()) == GOLDEN.read_text(encoding="utf-8").splitlines()


if __name__ == "__main__":
    print("\n".join(lines()))
