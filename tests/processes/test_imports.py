"""What is hidden from a library while it is imported."""

import importlib
import subprocess
import sys

import pytest

from tigerjax.processes.imports import without


def test_a_hidden_module_is_absent_in_the_block_and_there_again_after_it():
    sys.modules.pop("colorsys", None)
    with without("json", "colorsys"):
        assert importlib.import_module("json")  # it was imported already
        with pytest.raises(ImportError):
            importlib.import_module("colorsys")
    assert importlib.import_module("colorsys")


@pytest.mark.parametrize(
    ("does", "absent"),
    [
        ("from tigerjax.records import tf; tf.start()", ["sklearn", "matplotlib"]),
        ("from tigerjax.train import metrics; metrics._tensorboard(Path(sys.argv[1]), 0)", ["torch", "tensorflow"]),
    ],
)
def test_a_large_library_comes_without_what_it_imports_in_vain(does, absent, tmp_path):
    program = f"import sys; from pathlib import Path; {does}; print([m for m in {absent} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout == "[]\n", done.stderr[-2000:]
