"""What the functions of a room's face (its `__init__.py`) say of the errors that they raise."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "tigerjax"
ERRORS = ("ConfigError", "DataError", "Blocked", "GateFailed", "HostsError", "Unusable")


def face(init: Path) -> dict[str, ast.FunctionDef]:
    """The functions that a room's `__init__.py` passes on, by name."""
    found = {}
    for node in ast.parse(init.read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("tigerjax."):
            continue
        module = PACKAGE.parent / f"{node.module.replace('.', '/')}.py"
        names = {alias.name for alias in node.names}
        for part in ast.parse(module.read_text(encoding="utf-8")).body if module.is_file() else []:
            if isinstance(part, ast.FunctionDef) and part.name in names:
                found[part.name] = part
    return found


FACES = {init.parent.name: face(init) for init in sorted(PACKAGE.rglob("__init__.py"))}
FUNCTIONS = [(room, name) for room, functions in FACES.items() for name in functions]


def raised(function: ast.FunctionDef) -> set[str]:
    calls = [n.exc.func for n in ast.walk(function) if isinstance(n, ast.Raise) and isinstance(n.exc, ast.Call)]
    return {call.id for call in calls if isinstance(call, ast.Name)} & set(ERRORS)


def test_there_are_faces_with_functions_that_raise():
    assert len(FUNCTIONS) > 30 and sum(bool(raised(f)) for room in FACES.values() for f in room.values()) > 8


@pytest.mark.parametrize(("room", "name"), FUNCTIONS)
def test_a_function_of_a_face_says_under_which_condition_it_raises_what(room: str, name: str):
    function = FACES[room][name]
    text = ast.get_docstring(function) or ""
    said = text.partition("Raises")[2]
    for error in raised(function):
        assert error in said, f"tigerjax.{room}.{name} raises {error}; say when: `Raises {error} for …`"
