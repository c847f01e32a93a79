"""Config files: what a field that does not exist is answered with."""

from pathlib import Path

import pytest

from tigerjax import config
from tigerjax.errors import ConfigError

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
        ("MeshConfig(fsdq=2)", "did you mean fsdp?"),
        ("SplashConfig(block_kw=2)", "did you mean block_kv"),
        ("MeshConfig(nothing_like_it=2)", "unexpected keyword argument 'nothing_like_it'"),
    ],
)
def test_an_unknown_field_of_a_config_is_answered_with_its_new_or_near_name(built: str, answer: str, tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(FILE.format(built), encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        config.load(path)
    assert str(error.value).startswith(f"config file {path}:6: TypeError: ") and answer in str(error.value)
