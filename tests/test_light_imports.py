"""What the numeric core needs, and how fast the package and its command start."""

import resource
import subprocess
import sys

from test_layering import ROOT, module_name

NUMERIC_CORE = [
    "errors.py",
    "terminal.py",
    "files",
    "config",
    "processes",
    "mesh.py",
    "model",
    "checkpoint",
    "convert",
    "train",
    "sample",
    "plan",
]
ALSO_LIGHT = ["data/rows.py", "data/loader.py"]
HEAVY = ["tensorflow", "tensorflow_text", "tensorflow_datasets", "seqio", "torch", "transformers", "matplotlib"]

IMPORT_SECONDS = 0.3
HELP_SECONDS = 1.0
TRIES = 5  # the best one counts: a core that is shared makes even CPU seconds longer


def import_blocked(modules: list[str], blocked: list[str]) -> subprocess.CompletedProcess[str]:
    """Imports `modules` in a fresh Python in which `blocked` look as if they were not installed."""
    script = f"""
import importlib, sys
blocked = set({blocked!r})
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
for module in {modules!r}:
    importlib.import_module(module)
print("imported", len({modules!r}))
"""
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)


def test_the_numeric_core_imports_without_tensorflow_seqio_and_torch():
    files = [ROOT / "tigerjax" / name for name in NUMERIC_CORE + ALSO_LIGHT]
    paths = [p for f in files for p in (sorted(f.rglob("*.py")) if f.is_dir() else [f] if f.exists() else [])]
    modules = [module_name(p) for p in paths]
    assert len(modules) > len(NUMERIC_CORE), modules
    run = import_blocked(modules, HEAVY)
    assert run.returncode == 0 and run.stdout.strip() == f"imported {len(modules)}", run.stderr[-2000:]


def test_the_import_block_blocks():
    run = import_blocked(["seqio"], HEAVY)
    assert run.returncode != 0 and "No module named 'seqio'" in run.stderr


def fastest(command: list[str], limit: float) -> tuple[float, str]:
    """(CPU seconds of the fastest of a few runs of `command`, its stdout); no run follows one below `limit`.

    CPU seconds and not time on the clock, which is that of whatever else the machine does."""
    seconds: list[float] = []
    while len(seconds) < TRIES and min(seconds, default=limit) >= limit:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert run.returncode == 0, run.stdout + run.stderr
    return min(seconds), run.stdout


def test_import_tigerjax_takes_less_than_0_3_seconds():
    bare, _ = fastest([sys.executable, "-c", ""], 0.0)
    seconds, _ = fastest([sys.executable, "-c", "import tigerjax"], bare + IMPORT_SECONDS)
    assert seconds - bare < IMPORT_SECONDS


def test_help_answers_in_less_than_one_second():
    seconds, stdout = fastest([sys.executable, "-m", "tigerjax", "--help"], HELP_SECONDS)
    assert "train" in stdout and seconds < HELP_SECONDS
