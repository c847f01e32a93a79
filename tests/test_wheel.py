"""The wheel: it holds all that the quick start needs, names what it imports, and works in a folder without a clone."""

import ast
import email
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import tigerjax

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("tigerjax", "configs", "data_mixtures")
CONFIGS = "tigerjax/quickstart/configs"
"""Where the wheel holds configs/."""
OF_USERS = {"beam", "eval", "hf", "label", "language", "serve", "spark"}
"""Extras whose packages some commands import. `dev` and `bench` are for this repository only."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the wheel, as pip lays them out. Built from a copy, since setuptools litters."""
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("installed")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel"]
    command = [*pip, ".", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist"]
    built = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    [wheel] = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as file:
        file.extractall(out)
    return out


def python(installed: Path, cwd: Path, *words: str) -> str:
    """What Python prints in the folder `cwd` when tigerjax is the one in `installed`."""
    environment = os.environ | {"PYTHONPATH": str(installed), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def metadata(installed: Path) -> Message:
    [file] = installed.glob("*.dist-info/METADATA")
    return email.message_from_string(file.read_text(encoding="utf-8"))


def test_the_wheel_holds_every_file_of_its_packages(installed: Path):
    def files(root: Path) -> set[str]:
        found = (p for name in PACKAGES for p in (root / name).rglob("*") if p.is_file())
        return {str(p.relative_to(root)) for p in found if "__pycache__" not in p.parts}

    assert files(installed) == {re.sub("^configs", CONFIGS, name) for name in files(ROOT)}


def test_the_version_stands_in_one_place(installed: Path):
    assert metadata(installed)["Version"] == tigerjax.__version__
    assert tigerjax.__version__ not in (ROOT / "setup.py").read_text(encoding="utf-8")
    assert f"## {tigerjax.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_dependencies(requirements: list[Requirement], extras: set[str]) -> set[str]:
    """Names of what pip would install for `requirements` and `extras`, as far as it is installed here."""
    names: set[str] = set()
    left = [(r, extras) for r in requirements]
    while left:
        requirement, wanted = left.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in wanted | {""}):
            continue
        name = canonical(requirement.name)
        if name in names and not requirement.extras:
            continue
        names.add(name)
        try:
            more = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        left += [(Requirement(text), set(requirement.extras)) for text in more]
    return names


def test_every_package_that_tigerjax_imports_is_required(installed: Path):
    requirements = [Requirement(text) for text in metadata(installed).get_all("Requires-Dist")]
    provided = with_dependencies(requirements, OF_USERS)
    distributions = importlib.metadata.packages_distributions()
    missing = []
    for path in sorted((ROOT / "tigerjax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            else:
                targets = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for target in targets:
                top = target.split(".")[0]
                if top in sys.stdlib_module_names or top in PACKAGES or top not in distributions:
                    continue
                if not provided & set(map(canonical, distributions[top])):
                    missing.append(f"{path.relative_to(ROOT)}:{node.lineno}: {top} of {distributions[top]}")
    assert not missing, "\n".join(missing)


def test_matplotlib_is_needed_by_benchmarks_only(installed: Path):
    requirements = [Requirement(text) for text in metadata(installed).get_all("Requires-Dist")]
    [plots] = [r for r in requirements if r.name == "matplotlib"]
    assert plots.marker is not None and plots.marker.evaluate({"extra": "bench"})
    assert "matplotlib" not in with_dependencies(requirements, OF_USERS)


def test_the_command_and_the_first_stage_work_in_an_empty_folder(installed: Path, tmp_path: Path):
    assert "quickstart" in python(installed, tmp_path, "-m", "tigerjax", "--help")
    script = """
from pathlib import Path
import data_mixtures.quickstart
from tigerjax.quickstart import state, text
import tigerjax
out = Path("q")
state.claim(out)
counts = text.prepare_text(out)
names = ("base", "holistic", "sft", "reward", "rejection_sampled", "control")
configs = [state.run_config(name, out, seed=0, adjust=lambda config: config) for name in names]
print(tigerjax.__file__, data_mixtures.__file__, state.CONFIGS, counts["clean"]["out"] > 0, len(configs), sep="\\n")
"""
    *places, cleaned, configs = python(installed, tmp_path, "-c", script).splitlines()
    assert all(Path(place).is_relative_to(installed) for place in places), places
    assert (cleaned, configs) == ("True", "6")
    assert [p.name for p in tmp_path.iterdir()] == ["q"]
