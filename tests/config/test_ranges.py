"""Every number of every config has a range, and whatever lies outside it is refused in one line."""

import ast
import dataclasses
import importlib
import math
from pathlib import Path

import pytest

from tigerjax.align.config import AlignConfig, RewardConfig
from tigerjax.align.rewards.config import JudgeConfig, PartConfig
from tigerjax.command import options
from tigerjax.command.arguments import bind
from tigerjax.command.data_plan import StagesOptions
from tigerjax.command.plan import SearchOptions
from tigerjax.command.table import COMMANDS
from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    DpoConfig,
    EvalConfig,
    GrpoConfig,
    HealthConfig,
    IpoConfig,
    KtoConfig,
    LoraConfig,
    MeshConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    OrpoConfig,
    PipelineConfig,
    PpoConfig,
    PreferenceConfig,
    RlConfig,
    RopeConfig,
    RunConfig,
    ScheduleConfig,
    SimpoConfig,
    SplashConfig,
    WeightsConfig,
)
from tigerjax.config.ranges import INT32, Range, check, fields
from tigerjax.data.tasks import Source
from tigerjax.errors import ConfigError
from tigerjax.evaluate.length import LengthConfig
from tigerjax.evaluate.suite import EvaluationConfig
from tigerjax.processes.rendezvous import HostsConfig
from tigerjax.sample.engine import Batching, SamplingConfig
from tigerjax.serve.asked import Ask, ServeBatching
from tigerjax.serve.chat import ChatSettings
from tigerjax.train.new_rows import DistilConfig

ROOT = Path(__file__).resolve().parents[2]
MODEL = ModelConfig(
    num_layers=2, model_dim=8, mlp_dim=12, num_heads=2, num_kv_heads=1, head_dim=4, vocab_size=9, padded_vocab_size=10,
    rope_base=5000.0, norm_eps=1e-4,
)  # fmt: skip
OPTIM = OptimConfig(
    peak_lr=1e-2, final_lr_fraction=0.1, warmup_steps=0, total_steps=6, beta1=0.9, beta2=0.95, eps=1e-8,
    weight_decay=0.1, clip_norm=1.0,
)  # fmt: skip
COMPUTE = ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=40)
DATA = DataConfig(mixture="m", modules=(), tokenizer="t", cache_dir="c", seq_len=16)
PLANNED = StagesOptions(tokenizer="t", stages=("cache",))
CHECKPOINT = CheckpointConfig(every_steps=3, keep=3)
RUN = RunConfig(
    name="r", model=MODEL, compute=COMPUTE, mesh=MeshConfig(), optim=OPTIM, data=DATA, checkpoint=CHECKPOINT,
    global_batch_size=8, seed=0, log_every_steps=1,
)  # fmt: skip
VALID = [
    CheckpointConfig(every_steps=9, keep=1, local_every_steps=3, local_dir="d"),
    ScheduleConfig(kind="wsd", decay_steps=2),
    MODEL, OPTIM, COMPUTE, DATA, CHECKPOINT, RUN, MeshConfig(), PipelineConfig(), HealthConfig(), SplashConfig(),
    HostsConfig(), RewardConfig(), AlignConfig(prompt_fraction=0.07, seed=0), Batching(), Source("a"),
    EvaluationConfig(), SearchOptions(search=True),
    EvalConfig(every_steps=5, questions=("quiz=quiz.jsonl",)),
    ObjectiveConfig(),
    *(of(preferences=("p",)) for of in (PreferenceConfig, DpoConfig, IpoConfig, KtoConfig, OrpoConfig, SimpoConfig)),
    *(of(prompts=("p",), rewards=("r",)) for of in (RlConfig, GrpoConfig, PpoConfig)),
    RopeConfig(kind="yarn", factor=8.0, original_max_position_embeddings=2048),
    SamplingConfig(max_new_tokens=8, seed=0),
    LengthConfig(trained=64, times=(1, 2), ropes=(), factor=4.0, rows=2, needles=1),
    DistilConfig(),
    WeightsConfig(trained=("embed",)),
    LoraConfig(rank=2),
    ServeBatching(),
    PLANNED,
    JudgeConfig(url="http://127.0.0.1:8000/v1", model="m", template="t", lowest=1, highest=10),
    PartConfig(reward="r", floor=0.5),
    ChatSettings(n=1, temperature=0.9, top_p=0.95, top_k=0, max_new_tokens=8, seed=0),
    Ask(ids=(5,), prompt_id="p", max_new_tokens=8, temperature=0.9, top_p=0.95, top_k=0, seed=0),
]  # fmt: skip
ODD = [math.nan, math.inf, -math.inf, -1, -1.0, 0, 0.0, 1e30, 2**63, True, "32", "", None]
NUMBERS = [(config, name) for config in VALID for name, allowed in fields(type(config)).items() if allowed.range]


def test_no_number_of_a_config_is_without_a_range():
    """Config classes are found by their name, so that a new one cannot be forgotten."""
    known = {type(config) for config in VALID}
    for path in sorted((ROOT / "tigerjax").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith(("Config", "Options")):
                found = getattr(importlib.import_module(module), node.name)
                if not dataclasses.is_dataclass(found):
                    continue
                fields(found)  # TypeError for a number without a Range
                has_post_init = "__post_init__" in vars(found)
                assert found in known or not has_post_init, f"{module}.{node.name}: add a valid one to VALID"
    with pytest.raises(TypeError, match=r"Bare\.size is a number without a Range"):
        fields(dataclasses.make_dataclass("Bare", [("size", int)]))


@pytest.mark.parametrize(("config", "name"), NUMBERS, ids=lambda v: v if isinstance(v, str) else type(v).__name__)
def test_an_odd_number_is_refused_with_field_value_and_range(config, name):
    allowed = fields(type(config))[name]
    for value in ODD:
        given = (value,) if allowed.many else value
        try:
            made = dataclasses.replace(config, **{name: given})
        except ConfigError as error:
            line = str(error)
            assert "\n" not in line
            if allowed.why_not(value):
                assert f"{name}={given!r} must be " in line and str(allowed.range) in line
            continue  # else another rule, such as that one size divides another, refuses it
        assert not allowed.why_not(value) and getattr(made, name) == given
        assert value is None or (math.isfinite(value) and not isinstance(value, bool | str))


def test_what_is_no_choice_or_no_switch_is_refused():
    with pytest.raises(ConfigError, match=r"compute\.dtype='float16' must be one of float32, bfloat16"):
        dataclasses.replace(COMPUTE, dtype="float16")
    with pytest.raises(ConfigError, match=r"align\.allow_partial=1 must be True or False"):
        AlignConfig(prompt_fraction=0.07, seed=0, allow_partial=1)


def test_the_ends_of_a_range_are_in_it_or_not_as_declared():
    assert 0 in Range(0, 1) and 1 in Range(0, 1)
    assert not (0 in Range(0, 1, above=True) or 1 in Range(0, 1, below=True))
    assert math.nan not in Range(-math.inf, math.inf)
    assert str(Range(1, INT32)) == "at least 1 and below 2^31"
    assert str(Range(0, 0.5, above=True)) == "above 0 and at most 0.5"
    check(MODEL, "model.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--optim.clip-norm -1", "--optim.clip-norm -1 must be above 0"),
        ("--optim.peak-lr nan", "--optim.peak-lr nan must be above 0 and at most 1"),
        ("--optim.beta2 -1", "--optim.beta2 -1 must be at least 0 and below 1"),
        ("--log-every-steps 0", "--log-every-steps 0 must be at least 1"),
        ("--model.num-kv-heads 0", "--model.num-kv-heads 0 must be at least 1"),
        ("--optim.eps inf", "--optim.eps inf must be"),
        ("--optim.weight-decay -0.1", "--optim.weight-decay -0.1 must be"),
        ("--hosts.barrier-timeout-s 9999999", "--hosts.barrier-timeout-s 9999999 must be"),
    ],
)
def test_an_option_outside_its_range_is_refused_before_any_work(words, said):
    with pytest.raises(ConfigError) as caught:
        bind(COMMANDS[("train",)], ["configs/llama2_tiny.py", *words.split()], "tigerjax train")
    assert str(caught.value).startswith(said)


def test_no_number_of_a_command_is_without_a_range():
    for name, command in COMMANDS.items():
        for option in options.of_command(command):
            if option.item_type in (int, float):
                assert option.range is not None, f"{name} {option.name}: annotate it with a Range"
