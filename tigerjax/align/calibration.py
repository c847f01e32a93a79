"""The scale of a reward model's scores, which its checkpoint keeps."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.checkpoint.meta import META
from tigerjax.convert.forms import LORA
from tigerjax.errors import ConfigError
from tigerjax.files import paths

MODEL_FOLDER = "model"
"""Of a run of `tigerjax reward train`: the calibrated reward model."""
ADVICE = "run `tigerjax reward calibrate CONFIG --calibration-set SFT`"


def scale(extra: Mapping[str, Any]) -> tuple[float, float, float]:
    """(mean, deviation, truncation penalty) of a reward model's `extra`, which an import may have from elsewhere.

    Raises ConfigError where one of them is not there, or no number that can be.
    """
    calibration = extra.get("calibration")
    if not isinstance(calibration, dict) or "truncation_penalty" not in extra:
        raise ConfigError(f"this reward model is not calibrated; {ADVICE}")
    values = calibration.get("mean"), calibration.get("std"), extra["truncation_penalty"]
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool) and np.isfinite(v)]
    if len(numbers) < len(values) or numbers[1] <= 0 or numbers[2] < 0:
        raise ConfigError(
            f"this reward model has mean, std and truncation_penalty {values}, needs numbers, a std above 0 and a"
            f" penalty of at least 0; {ADVICE}"
        )
    return numbers[0], numbers[1], numbers[2]


def refuse_foreign(where: str | Path) -> None:
    """ConfigError, with the commands that make a reward of it, for a folder of Hugging Face or an adapter of PEFT."""
    there = set(paths.names(paths.of(where)))
    if META in there:
        return
    then = (
        "`tigerjax reward calibrate CONFIG --model DIR --calibration-set SFT` gives its scores their scale, and DIR is"
        " the reward"
    )
    if there.intersection(LORA):
        raise ConfigError(
            f"{where} is a LoRA adapter, which has no model in it; `tigerjax convert from-hf {where} DIR --base MODEL`"
            f" merges it, {then}"
        )
    if "config.json" in there:
        raise ConfigError(
            f"{where} is a Hugging Face folder; `tigerjax convert from-hf {where} DIR` imports it, {then}"
        )


def check(extra: Mapping[str, Any], where: str | Path) -> None:
    """ConfigError, with what to give or to run instead, unless the reward model at `where`, whose checkpoint says
    `extra`, is calibrated."""
    if "calibration" in extra and "truncation_penalty" in extra:
        return
    made = paths.of(where) / MODEL_FOLDER
    advice = f"run `tigerjax reward calibrate CONFIG --model {where} --calibration-set SFT`"
    if (made / META).exists():
        advice = f"give {made}, which `tigerjax reward train` calibrated"
    raise ConfigError(f"{where}: this reward model is not calibrated; {advice}")
