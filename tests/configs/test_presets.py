"""Every file under configs/: its resolved dump is the golden one; the Llama-2 presets have Llama-2's weights."""

import math
from pathlib import Path

import flax.linen as nn
import jax
import pytest

from tigerjax import config
from tigerjax.model import llama

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
PRESETS = sorted((ROOT / "configs").glob("llama2_*.py"))
COUNTS = {
    "llama2_tiny": 387_392,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
}


def test_there_is_a_count_for_every_preset():
    assert {path.stem for path in PRESETS} == set(COUNTS)


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_the_resolved_preset_equals_its_golden_dump(path):
    """A wanted change rewrites it: print the dump of `config.load(path)` into tests/golden/NAME.txt."""
    golden = (GOLDEN / f"{path.stem}.txt").read_text(encoding="utf-8").splitlines()
    assert config.dump(config.load(path)) == golden


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_preset_has_the_published_number_of_weights_by_arithmetic_and_by_shape(path):
    run = config.load(path)
    boxed = jax.eval_shape(lambda key: llama.init(llama.Llama(run.model, run.compute), key), jax.random.key(0))
    by_shape = sum(math.prod(w.shape) for w in jax.tree.leaves(nn.unbox(boxed)))
    assert llama.parameter_count(run.model) == by_shape == COUNTS[path.stem]


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_the_docstring_of_a_preset_gives_its_number_of_weights_and_says_what_was_not_run(path):
    text = path.read_text(encoding="utf-8")
    assert f"{COUNTS[path.stem]:,} weights" in text and "our choice" in text


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_preset_imports_tigerjax_config_only(path):
    imports = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(("import", "from"))]
    assert imports == ["from tigerjax.config import ("]
