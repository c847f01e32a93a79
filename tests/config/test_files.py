"""Config files and the configs of runs: what `dump` writes, `load` reads; an unknown field is named with ours."""

import dataclasses
import re
from pathlib import Path

import pytest

from tigerjax import config as config_lib
from tigerjax.config import RopeConfig
from tigerjax.errors import ConfigError
from tigerjax.model.mistral.sizes import MistralConfig
from tigerjax.model.qwen2.sizes import Qwen2Config
from tigerjax.model.qwen3.sizes import Qwen3Config

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.py"))
SIZES = {
    "num_layers": 3, "model_dim": 16, "mlp_dim": 40, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6,
    "vocab_size": 30, "padded_vocab_size": 32, "rope_base": 777.0, "norm_eps": 3e-4,
}  # fmt: skip


def run_folder(folder: Path, lines: list[str]) -> Path:
    (folder / config_lib.DUMPED).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_folder_of_a_run_gives_the_config_of_its_file(path, tmp_path):
    config = config_lib.load(path)
    assert config_lib.load(run_folder(tmp_path, config_lib.dump(config))) == config


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "seed = ", "the value of seed cannot be read"),
        ("seed = 0", "seed = open('x')", "the value of seed cannot be read"),
        ("seed = 0", "seed: 0", "is no line of a config"),
        ("seed = 0", "sed = 0", "seed is missing"),
        ("seed = 0", "seed = 0\nlength = 3", "no field length in this version"),
        ("seed = 0", "seed = 'a'", "seed"),
        ("seed = 0", "seed = -1", "seed"),
        ("seed = 0", "seed = 0\nmodel = tigerjax.model.mamba.sizes.MambaConfig", "which is not in this version"),
        ("seed = 0", "seed = 0\nmodel = tigerjax.config.run.MeshConfig", "model is a tigerjax.config.run.MeshConfig,"),
        ("seed = 0", "seed = 0\nmodel = Qwen3Config", "model is a Qwen3Config, which is not in this version"),
    ],
)
def test_a_damaged_config_of_a_run_is_one_line(tmp_path, old, new, message):
    lines = config_lib.dump(config_lib.load(CONFIGS[0].parent / "llama2_tiny.py"))
    assert old in lines
    changed = "\n".join(lines).replace(old, new)
    with pytest.raises(ConfigError, match=r"^[^\n]+$") as error:
        config_lib.load(run_folder(tmp_path, [changed]))
    assert message in str(error.value)


@pytest.mark.parametrize(
    "model",
    [
        MistralConfig(**SIZES, sliding_window=5),
        Qwen2Config(**SIZES, tied=True),
        Qwen3Config(**SIZES, attention_bias=True, rope=RopeConfig(kind="linear", factor=2.0)),
    ],
    ids=lambda model: type(model).__name__,
)
def test_the_folder_of_a_run_gives_the_sizes_of_every_family(tmp_path, model):
    config = dataclasses.replace(config_lib.load(CONFIGS[0].parent / "llama2_tiny.py"), model=model)
    assert config_lib.load(run_folder(tmp_path, config_lib.dump(config))) == config


def test_the_text_of_a_run_imports_no_module_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "elsewhere.py").write_text("raise SystemExit('run by a text')")
    monkeypatch.syspath_prepend(tmp_path)
    lines = config_lib.dump(config_lib.load(CONFIGS[0].parent / "llama2_tiny.py"))
    for named in ("elsewhere.Sizes", "tigerjax.model..Sizes", "os.PathLike", ".", "", "tigerjax.__main__.main"):
        with pytest.raises(ConfigError, match=r"not in this version|no line of a config"):
            config_lib.load(run_folder(tmp_path, [*lines, f"model = {named}"]))


def test_a_field_that_an_older_version_did_not_have_keeps_its_default(tmp_path):
    config = config_lib.load(CONFIGS[0].parent / "llama2_tiny.py")
    lines = [line for line in config_lib.dump(config) if not line.startswith(("health.", "data.max_dropped"))]
    assert config_lib.load(run_folder(tmp_path, lines)) == config


def test_a_field_is_read_by_the_name_that_an_older_version_gave_it(tmp_path):
    config = config_lib.load(CONFIGS[0].parent / "llama2_tiny.py")
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, gradient_accumulation_steps=2))
    lines = "\n".join(config_lib.dump(config))
    older = lines.replace("global_batch_size", "batch_rows").replace("gradient_accumulation_steps", "accumulate")
    assert older.count("accumulate") == older.count("batch_rows") == 1
    assert config_lib.load(run_folder(tmp_path, older.splitlines())) == config


def test_another_folder_is_refused_with_what_a_run_has(tmp_path):
    with pytest.raises(ConfigError, match=r"is a folder, and not that of a run, which has a config\.txt"):
        config_lib.load(tmp_path)


FILE = """from tigerjax.config import *
from tigerjax.model.llama.presets import adamw
import dataclasses

def config():
    return {}
"""


@pytest.mark.parametrize(
    ("built", "answer"),
    [
        ("RunConfig(batch_rows=8)", "batch_rows is now global_batch_size"),
        ("dataclasses.replace(OptimConfig, accumulate=2)", ""),  # not an instance: another error
        ("OptimConfig(accumulate=2)", "accumulate is now gradient_accumulation_steps"),
        ("adamw(accumulate=2)", "accumulate is now gradient_accumulation_steps"),
        ("MeshConfig(fsdq=2)", "id you mean (')?fsdp"),
        ("SplashConfig(block_kw=2)", "id you mean (')?block_kv"),
        ("MeshConfig(nothing_like_it=2)", "unexpected keyword argument 'nothing_like_it'"),
    ],
)
def test_an_unknown_field_of_a_config_is_answered_with_its_new_or_near_name(built: str, answer: str, tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(built), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        config_lib.load(path)
    assert str(error.value).startswith(f"config file {path}:6: TypeError: ") and re.search(answer, str(error.value))
