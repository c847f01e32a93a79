"""Files under configs/: their resolved dumps are the golden ones; they and the presets have the published weights."""

import dataclasses
import importlib
import inspect
import math
import re
from pathlib import Path

import flax.linen as nn
import jax
import pytest

from tigerjax import config
from tigerjax.model import families
from tigerjax.model.layers import init

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
GOLDEN_CONFIGS = [path for path in CONFIGS if not path.stem.startswith("quickstart_")]
PRESETS = [
    importlib.import_module(f"tigerjax.model.{path.parent.name}.presets")
    for path in sorted((ROOT / "tigerjax/model").glob("*/presets.py"))
]
SIZES = {
    name: function
    for presets in PRESETS
    for name, function in inspect.getmembers(presets, inspect.isfunction)
    if not inspect.signature(function).parameters
}
PLANNED = re.compile(
    r"Plan     ([\d.]+) of ([\d.]+) GB per chip; a step of ([\d,]+) tokens in .*?MFU at most ([\d.]+)%", re.DOTALL
)
"""In a docstring: GB that are needed and there, tokens of a step, and the bound."""
PUBLISHED = {
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "llama3_8b": 8_030_261_248,
    "llama31_8b": 8_030_261_248,
    "llama3_70b": 70_553_706_496,
    "llama32_1b": 1_235_814_400,
    "llama32_3b": 3_212_749_824,
    "mistral_7b": 7_241_732_096,
    "mistral_7b_v3": 7_248_023_552,
    "qwen25_05b": 494_032_768,
    "qwen25_7b": 7_615_616_512,
    "qwen3_06b": 596_049_920,
    "qwen3_8b": 8_190_735_360,
}
"""Weights of published models, as transformers counts them for their published config.json. The others are ours, or
grown."""
COUNTS = {
    "llama2_tiny": 387_392,
    "llama2_7b": 6_738_415_616,
    "llama2_13b": 13_015_864_320,
    "llama2_70b": 68_976_648_192,
    "tiger_7b_pretrain": 6_975_393_792,
    "tiger_7b_sft": 6_975_393_792,
    "tiger_7b_dpo": 6_975_393_792,
    "tiger_7b_reward": 6_725_836_800,
    "tiger_13b_pretrain": 13_312_087_040,
    "tiger_13b_sft": 13_312_087_040,
    "tiger_13b_reward": 13_000_140_800,
    "tiger_70b_pretrain": 69_450_604_544,
    "tiger_70b_pretrain_tpu7x": 69_450_604_544,
    "tiger_70b_sft": 69_450_604_544,
    "tiger_70b_sft_tpu7x": 69_450_604_544,
    "tiger_70b_lora": 69_450_604_544,
    "tiger_70b_reward": 68_951_490_560,
    "tiger_70b_reward_tpu7x": 68_951_490_560,
    "tiger_13b_v5_pretrain": 13_354_931_200,
    "tiger_13b_v6_pretrain": 13_354_931_200,
    "tiger_70b_v2_pretrain": 69_519_155_200,
    "tiger_13b_long": 13_312_087_040,
    "tiger_70b_long": 69_450_604_544,
    "tiger_70b_long_tpu7x": 69_450_604_544,
}


def test_there_is_a_count_for_every_config():
    assert {path.stem for path in GOLDEN_CONFIGS} == set(COUNTS)


@pytest.mark.parametrize("path", GOLDEN_CONFIGS, ids=lambda p: p.stem)
def test_the_resolved_config_equals_its_golden_dump(path):
    """A wanted change rewrites it: print the dump of `config.load(path)` into tests/golden/NAME.txt."""
    golden = (GOLDEN / f"{path.stem}.txt").read_text(encoding="utf-8").splitlines()
    assert config.dump(config.load(path)) == golden


@pytest.mark.parametrize("path", GOLDEN_CONFIGS, ids=lambda p: p.stem)
def test_a_config_has_the_published_number_of_parameters_by_arithmetic_and_by_shape(path):
    run, scores = config.load(path), "_reward" in path.stem
    family = families.of(run.model)
    model = (family.reward_model if scores else family.language_model)(run.model, run.compute)
    boxed = jax.eval_shape(lambda key: init(model, key), jax.random.key(0))
    by_shape = sum(math.prod(w.shape) for w in jax.tree.leaves(nn.unbox(boxed)))
    # A reward model has one column in the place of the vocabulary's.
    less = (run.model.padded_vocab_size - 1) * run.model.model_dim if scores else 0
    assert family.parameter_count(run.model) - less == by_shape == COUNTS[path.stem]


@pytest.mark.parametrize("path", GOLDEN_CONFIGS, ids=lambda p: p.stem)
def test_the_docstring_of_a_config_gives_its_number_of_parameters_and_says_what_was_not_run(path):
    text = path.read_text(encoding="utf-8")
    assert f"{COUNTS[path.stem]:,} parameters" in text and "our choice" in text


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*_tpu7x.py")), ids=lambda path: path.stem)
def test_a_config_for_tpu7x_is_the_run_of_its_name_on_other_chips(path):
    """The same training: what differs is how it is cut and computed."""
    other, base = config.load(path), config.load(path.with_name(path.name.replace("_tpu7x", "")))
    assert other != base and other.compute.splash.kernel == "wide"
    optim = dataclasses.replace(other.optim, gradient_accumulation_steps=base.optim.gradient_accumulation_steps)
    same = dataclasses.replace(other, name=base.name, compute=base.compute, mesh=base.mesh, optim=optim)
    assert same == base


def test_every_config_of_tigerbots_sizes_is_planned_by_the_script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks/tpu"))
    tiger_plans = importlib.import_module("tiger_plans")
    own = {name: words for name, words in tiger_plans.WORDS.items() if ":" not in name}
    assert set(own) == {path.stem for path in CONFIGS if path.stem.startswith("tiger_")}
    for name, words in own.items():
        said = (ROOT / f"configs/{name}.py").read_text(encoding="utf-8")
        assert f"tigerjax plan configs/{name}.py {' '.join(words)}\n" in said


def test_the_plan_of_rows_of_32768_tokens_reaches_nine_tenths_of_that_of_4096_with_as_many_tokens_per_chip():
    planned = []
    for name in ("tiger_70b_long", "tiger_70b_pretrain"):
        said = (ROOT / f"configs/{name}.py").read_text(encoding="utf-8")
        peak, room, tokens, bound = PLANNED.search(said).groups()
        assert "Hardware 256 v5p chips" in said and float(peak) < float(room)
        planned.append((tokens, float(bound)))
    (tokens, long), (as_many, short) = planned
    assert tokens == as_many and long >= 0.9 * short


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_a_config_takes_its_sizes_from_one_preset(path):
    source = path.read_text(encoding="utf-8")
    named = [name for name in SIZES if f"model={name}()," in source]
    assert len(named) == 1 and config.load(path).model == SIZES[named[0]]()


@pytest.mark.parametrize("name", SIZES)
def test_the_docstring_of_a_preset_gives_its_number_of_parameters(name):
    preset = SIZES[name]
    count = families.of(preset()).parameter_count(preset())
    assert f"{count:,} parameters" in preset.__doc__ and PUBLISHED.get(name, count) == count


def test_every_published_model_has_a_preset_and_every_family_has_one():
    assert set(PUBLISHED) <= set(SIZES)
    assert {families.of(preset()).KIND for preset in SIZES.values()} == {family.KIND for family in families.FAMILIES}
