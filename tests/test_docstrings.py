"""What docstrings say: of errors, those of a room's face (its `__init__.py`); of formulas, where they are from."""

import ast
import re
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


FORMULAS = {
    "train/schedule.py": {"stable_until"},
    "train/optim.py": {"decay_mask"},
    "train/adam_8bit.py": set(),
    "train/policy_loss.py": set(),
    "train/preference_loss.py": {"preference_loss", "answer_sums"},
    "model/loss.py": {"token_nll", "loss_by_row"},
    "model/adapters.py": {"paths", "without"},
    "model/quantised.py": {"is_quantised", "held_sharding", "with_held", "read_all"},
    "align/reward_loss.py": set(),
    "align/rl/advantages.py": {"normalised"},
}
"""Modules of formulas that papers gave, and their functions that hold none of their own."""
OF_TABLES = {"train/optim.py": "KINDS", "train/preference_loss.py": "LOSSES"}
"""Tables of a module from which a setting chooses a formula; its functions may be private."""
CONFIGS = ("config/objective.py", "config/reinforcement.py")
PLACE = r"(equation|algorithm|section|theorem)s? \d"


def parsed(path: str) -> ast.Module:
    return ast.parse((PACKAGE / path).read_text(encoding="utf-8"))


def without_source(node: ast.FunctionDef | ast.ClassDef) -> bool:
    """Whether a docstring lacks the paper's number on arXiv, or where in it the formula stands."""
    text = " ".join((ast.get_docstring(node) or "").split())
    return not (re.search(r"arXiv \d{4}\.\d{4,5}", text) and re.search(PLACE, text))


@pytest.mark.parametrize("path", FORMULAS)
def test_a_formula_names_its_paper_and_where_it_stands_in_it(path: str):
    functions = {node.name: node for node in parsed(path).body if isinstance(node, ast.FunctionDef)}
    public = {name for name in functions if not name.startswith("_")}
    assert public >= FORMULAS[path]
    table = OF_TABLES.get(path)
    chosen = [n for n in parsed(path).body if isinstance(n, ast.AnnAssign) and ast.unparse(n.target) == table]
    in_table = {ast.unparse(v) for n in chosen if isinstance(n.value, ast.Dict) for v in n.value.values}
    assert bool(in_table) == (table is not None)
    lacking = sorted(name for name in (public | in_table) - FORMULAS[path] if without_source(functions[name]))
    assert not lacking, f"tigerjax/{path}: say `arXiv NUMBER, equation N` (or section, algorithm) in {lacking}"


@pytest.mark.parametrize("path", CONFIGS)
def test_an_objective_names_its_paper_and_equation(path: str):
    classes = {node.name: node for node in parsed(path).body if isinstance(node, ast.ClassDef)}
    above = {ast.unparse(base) for node in classes.values() for base in node.bases}
    leaves = [node for name, node in classes.items() if name not in above]
    assert len(leaves) >= 2 and not [node.name for node in leaves if without_source(node)]
