"""House rules: who imports whom, and how files, functions and classes are cut and named."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# A file imports only from its own level or lower ones. A new room gets its level here and in docs/ARCHITECTURE.md.
LEVELS = {
    **dict.fromkeys(["errors", "terminal", "files", "config"], 0),
    **dict.fromkeys(["processes", "pages", "records", "mesh", "tokenizer"], 1),
    **dict.fromkeys(["stages", "text", "data", "model"], 2),
    **dict.fromkeys(["checkpoint"], 3),
    **dict.fromkeys(["train", "sample", "convert"], 4),
    **dict.fromkeys(["plan", "evaluate", "serve"], 5),
    **dict.fromkeys(["align", "report"], 6),
    **dict.fromkeys(["quickstart"], 7),
    **dict.fromkeys(["command", "__main__"], 8),
}
SIBLINGS = {"train", "sample", "convert"}  # none imports another
DATA_MIXTURES_LEVEL = 2  # registrations, made of tigerjax.data and what is below it

DRAWERS = {"utils", "util", "common", "helpers", "helper", "base", "misc"}
LONGEST_FILE = 350  # lines; past it a file owns two things
MOST_PARAMETERS = 8  # past them a function wants a dataclass
LONG_SIGNATURES = 10  # so many functions may have more, each with a comment that gives its reason


def imported(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each absolute import anywhere in a file, functions included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def level_errors(source: str, name: str, level: int) -> list[str]:
    """One line for each import of `source` that reaches up, or into a room without a level."""
    found = []
    for line, target in imported(ast.parse(source)):
        if target.startswith("."):
            found.append(f"{name}:{line}: relative import {target}; write the full name")
        if target.split(".")[0] == "data_mixtures" and level < DATA_MIXTURES_LEVEL:
            found.append(f"{name}:{line}: level {level} imports {target} of level {DATA_MIXTURES_LEVEL}")
        if not target.startswith("tigerjax."):
            continue
        room = target.split(".")[1]
        if room.startswith("__"):  # tigerjax.__version__
            continue
        if room not in LEVELS:
            found.append(f"{name}:{line}: {target} is in a room without a level")
        elif LEVELS[room] > level:
            found.append(f"{name}:{line}: level {level} imports {target} of level {LEVELS[room]}")
    return found


def python_files(*folders: str) -> list[Path]:
    return sorted(p for f in folders for p in (ROOT / f).rglob("*.py") if "__pycache__" not in p.parts)


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_file_imports_its_own_level_or_lower():
    found = []
    for path in python_files("tigerjax"):
        parts = path.relative_to(ROOT / "tigerjax").with_suffix("").parts
        if parts == ("__init__",):
            level = -1
        else:
            assert parts[0] in LEVELS, f"{path.relative_to(ROOT)}: a room without a level; add it to LEVELS"
            level = LEVELS[parts[0]]
        found += level_errors(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)), level)
    for path in python_files("data_mixtures"):
        text = path.read_text(encoding="utf-8")
        found += level_errors(text, str(path.relative_to(ROOT)), DATA_MIXTURES_LEVEL)
    assert not found, "\n".join(found)


def circles(files: dict[str, str]) -> list[str]:
    """Each group of modules of {name: source} that import each other in a loop, function-level imports included."""
    ties: dict[str, set[str]] = {}
    for name, source in files.items():
        # `from a import b` is an import of a.b where that is a module, else of a.
        wanted = [t if t in files else t.rsplit(".", 1)[0] for _, t in imported(ast.parse(source))]
        ties[name] = {t for t in wanted if t in files and t != name}
    reach: dict[str, set[str]] = {}
    for name in files:
        seen, left = set(), [name]
        while left:
            for target in ties[left.pop()] - seen:
                seen.add(target)
                left.append(target)
        reach[name] = seen
    return sorted(
        {" <-> ".join(sorted(m for m in files if m in reach[n] and n in reach[m])) for n in files if n in reach[n]}
    )


def test_no_modules_import_each_other_in_a_loop():
    found = circles({module_name(p): p.read_text(encoding="utf-8") for p in python_files("tigerjax", "data_mixtures")})
    assert not found, "\n".join(found)


def test_a_planted_loop_is_found():
    planted = {
        "tigerjax.a": "from tigerjax import b",
        "tigerjax.b": "def f():\n    import tigerjax.c",
        "tigerjax.c": "from tigerjax.a import x",
        "tigerjax.d": "from tigerjax import a",
    }
    assert circles(planted) == ["tigerjax.a <-> tigerjax.b <-> tigerjax.c"]


def siblings(source: str, room: str) -> list[str]:
    """Imports of `source`, a file of `room`, from another of the rooms that do not import each other."""
    others = SIBLINGS - {room} if room in SIBLINGS else set()
    targets = [target.split(".") for _, target in imported(ast.parse(source))]
    return [".".join(t) for t in targets if t[0] == "tigerjax" and len(t) > 1 and t[1] in others]


def test_train_sample_and_convert_do_not_import_each_other():
    found = {}
    for path in python_files("tigerjax"):
        name = path.relative_to(ROOT / "tigerjax")
        if wrong := siblings(path.read_text(encoding="utf-8"), name.parts[0]):
            found[str(name)] = wrong
    assert not found
    assert siblings("from tigerjax.train import loop", "sample") == ["tigerjax.train.loop"]


def families_named(source: str, families: list[str]) -> list[str]:
    """Imports of `source` from the folder of a model family."""
    folders = [f"tigerjax.model.{family}" for family in families]
    targets = {target for _, target in imported(ast.parse(source))}
    return sorted(t for t in targets for folder in folders if t == folder or t.startswith(folder + "."))


def test_only_families_py_imports_a_model_family():
    model = ROOT / "tigerjax" / "model"
    families = [path.parent.name for path in model.glob("*/__init__.py")]
    assert "llama" in families
    found = {}
    for path in python_files("tigerjax", "data_mixtures"):  # a config names the presets of its family
        inside = path.is_relative_to(model) and path.relative_to(model).parts[0] in families
        if not inside and (named := families_named(path.read_text(encoding="utf-8"), families)):
            found[str(path.relative_to(ROOT))] = named
    assert found == {"tigerjax/model/families.py": sorted(f"tigerjax.model.{family}.face" for family in families)}


def test_a_planted_import_of_a_family_is_found():
    planted = "def f():\n    from tigerjax.model import families, llama\n    import tigerjax.model.llama.face\n"
    assert families_named(planted, ["llama"]) == ["tigerjax.model.llama", "tigerjax.model.llama.face"]
    assert families_named("from tigerjax.model.llamas import x", ["llama"]) == []


def test_a_planted_upward_import_is_found():
    planted = "def f():\n    from tigerjax.train import loop\n    from tigerjax import config, cli\nfrom . import x\n"
    found = level_errors(planted, "planted.py", 1)
    assert [line.split(": ", 1)[0] for line in found] == ["planted.py:4", "planted.py:2", "planted.py:3"], found


def config_errors(source: str, name: str) -> list[str]:
    """One line for each import of a config file that is neither of the config dataclasses nor of a family's presets."""
    found = []
    for line, target in imported(ast.parse(source)):
        parts = target.split(".")
        allowed = parts[:2] == ["tigerjax", "config"] or (
            parts[:2] == ["tigerjax", "model"] and parts[3:4] == ["presets"]
        )
        if not allowed and parts[0] not in sys.stdlib_module_names:
            found.append(f"{name}:{line}: imports {target}; configs import tigerjax.config and a family's presets only")
    return found


def test_configs_import_tigerjax_config_and_presets_and_nothing_else():
    found = []
    for path in python_files("configs"):
        found += config_errors(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    assert not found, "\n".join(found)
    planted = (
        "from tigerjax.model.llama.presets import adamw\nfrom tigerjax.model.llama.model import Llama\nimport jax\n"
    )
    assert [line.split(": ")[0] for line in config_errors(planted, "planted.py")] == ["planted.py:2", "planted.py:3"]


def test_no_file_is_a_drawer_or_too_long():
    files = python_files("tigerjax", "configs", "data_mixtures", "benchmarks", "docs", "tests")
    drawers = [str(p.relative_to(ROOT)) for p in files if p.stem in DRAWERS or p.parent.name in DRAWERS]
    assert not drawers, f"name the thing these hold: {drawers}"
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in files}
    long = {name: n for name, n in lengths.items() if n > LONGEST_FILE}
    assert not long, f"past {LONGEST_FILE} lines a file owns two things: {long}"


def long_signatures(source: str, name: str) -> list[tuple[str, bool]]:
    """("name:line: function …", whether a comment above or inside the signature gives a reason) of the long ones."""
    lines, long = source.splitlines(), []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = node.args
        names = [a.arg for a in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg) if a]
        count = len(names) - (names[:1] in (["self"], ["cls"]))
        if count > MOST_PARAMETERS:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            signature = "\n".join(lines[max(first - 2, 0) : node.body[0].lineno - 1])
            long.append((f"{name}:{node.lineno}: {node.name} has {count} parameters", "#" in signature))
    return long


def test_few_functions_have_many_parameters_and_each_says_why():
    found = []
    for path in python_files("tigerjax", "benchmarks", "configs", "data_mixtures", "docs"):
        found += long_signatures(path.read_text(encoding="utf-8"), str(path.relative_to(ROOT)))
    assert len(found) <= LONG_SIGNATURES, "\n".join(where for where, _ in found)
    assert all(has_reason for _, has_reason in found), "\n".join(where for where, has_reason in found if not has_reason)


def test_a_planted_long_signature_is_found_and_its_reason_too():
    planted = """
class A:
    def f(self, a, b, c, d, e, f, g, *, h): ...

# The nine are one row of a table.
@staticmethod
def g(a, b, c, d, e, f, g, h, **i):
    pass

def h(a, b, c, d, e, /, f, g, *h, i): ...
"""
    assert long_signatures(planted, "p.py") == [
        ("p.py:7: g has 9 parameters", True),
        ("p.py:10: h has 9 parameters", False),
    ]


def test_no_checker_is_told_to_look_away():
    away = re.compile(r"#\s*(noqa|type:\s*ignore|mypy:|pylint:|pyright:|fmt:\s*off|ruff:)")
    found = []
    for path in python_files("tigerjax", "benchmarks", "configs", "data_mixtures", "docs", "tests"):
        lines = path.read_text(encoding="utf-8").splitlines()
        found += [
            f"{path.relative_to(ROOT)}:{n}: {line.strip()}" for n, line in enumerate(lines, 1) if away.search(line)
        ]
    assert not found, "\n".join(found)


def test_the_table_of_rooms_is_that_of_the_levels():
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text.split("<!-- levels -->")[1].split("<!-- /levels -->")[0]
    shown = {}
    for level, rooms in re.findall(r"^\| (\d) \| (.+?) \|", table, flags=re.MULTILINE):
        for room in re.findall(r"`(\w+)", rooms):
            shown[room] = int(level)
    assert shown == {room: level for room, level in LEVELS.items() if room != "__main__"}
    here = {
        path.stem for path in (ROOT / "tigerjax").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert here - {"__init__"} == set(LEVELS)


def classes_twice(files: dict[str, str]) -> dict[str, list[str]]:
    """{class: modules} of the public classes that several modules of {module: source} define."""
    where: dict[str, list[str]] = {}
    for module, source in files.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(module)
    return {name: modules for name, modules in where.items() if len(modules) > 1}


def test_a_name_of_a_class_means_one_thing_in_the_whole_package():
    found = classes_twice({module_name(p): p.read_text(encoding="utf-8") for p in python_files("tigerjax")})
    assert not found, f"one word, one meaning; give each its own name: {found}"
    planted = {"tigerjax.a": "class Source: ...\nclass _Part: ...", "tigerjax.b": "class Source: ...\nclass _Part: ..."}
    assert classes_twice(planted) == {"Source": ["tigerjax.a", "tigerjax.b"]}


def test_no_file_names_a_path_of_the_machine_it_was_written_on():
    machine_path = re.compile(r"(?<![\w.:/}>)*-])/(?:work|root|home)/")
    folders = ["tigerjax", "configs", "data_mixtures", "tests", "launch", "docs", "benchmarks", ".ci"]
    paths = [p for f in folders for p in sorted((ROOT / f).rglob("*")) if p.is_file() and "__pycache__" not in p.parts]
    paths += [p for p in sorted(ROOT.iterdir()) if p.is_file() and p.name != ".git"]  # a file in a git worktree
    found = []
    for path in paths:
        if path == Path(__file__) or path.stat().st_size > 2_000_000:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # binary
        for number, line in enumerate(text.splitlines(), 1):
            if machine_path.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}")
    assert not found, "\n".join(found)


def test_no_two_files_of_tests_have_one_name():
    """pytest imports them by their names alone, and does not run the second one."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
