"""Presets under configs/: their resolved dumps are the golden ones; they have Llama-2's and TigerBot's weights."""

import math
from pathlib import Path

import flax.linen as nn
import jax
import pytest

from tigerjax import config
from tigerjax.model.layers import init
from tigerjax.model.llama import model as llama
from tigerjax.model.llama import numbers
from tigerjax.model.llama.reward import Reward

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
PRESETS = sorted(p for family in ("llama2", "tiger") for p in (ROOT / "configs").glob(f"{family}_*.py"))
COUNTS = {
    "llama2_tiny": 387_392,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "tiger_7b_pretrain": 6_975_393_792,
    "tiger_7b_sft": 6_975_393_792,
    "tiger_7b_reward": 6_725_836_800,
    "tiger_13b_pretrain": 13_312_087_040,
    "tiger_13b_sft": 13_312_087_040,
    "tiger_13b_reward": 13_000_140_800,
    "tiger_70b_pretrain": 69_450_604_544,
    "tiger_70b_sft": 69_450_604_544,
    "tiger_70b_reward": 68_951_490_560,
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
    run, scores = config.load(path), path.stem.endswith("_reward")
    model = Reward(run.model, run.compute) if scores else llama.Llama(run.model, run.compute)
    boxed = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
    by_shape = sum(math.prod(w.shape) for w in jax.tree.leaves(nn.unbox(boxed)))
    # A reward model has one column in the place of the vocabulary's.
    less = (run.model.padded_vocab_size - 1) * run.model.model_dim if scores else 0
    assert numbers.parameter_count(run.model) - less == by_shape == COUNTS[path.stem]


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_the_docstring_of_a_preset_gives_its_number_of_weights_and_says_what_was_not_run(path):
    text = path.read_text(encoding="utf-8")
    assert f"{COUNTS[path.stem]:,} weights" in text and "our choice" in text


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_a_preset_imports_tigerjax_config_only(path):
    imports = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith(("import", "from"))]
    assert imports == ["from tigerjax.config import ("]
