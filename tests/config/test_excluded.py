"""Settings of compute that exclude others, or that would mean nothing."""

import dataclasses
import re

import pytest

from tigerjax import config
from tigerjax.config import SplashConfig
from tigerjax.errors import ConfigError

WIDE = SplashConfig(kernel="wide", fused_backward=True)


@pytest.mark.parametrize(
    ("head_dim", "attention", "words"),
    [
        (128, "reference", "wide means nothing with compute.attention=reference; set compute.attention=splash, or"),
        (128, "cudnn", "wide means nothing with compute.attention=cudnn"),
        (64, "splash", "wide needs heads of a multiple of 128 features, and model.head_dim=64; set"),
    ],
)
def test_the_wide_kernels_are_refused_where_they_mean_nothing_and_for_narrow_heads(head_dim, attention, words):
    run = config.load("configs/llama2_7b.py")
    compute = dataclasses.replace(run.compute, attention=attention, splash=WIDE)
    with pytest.raises(ConfigError, match=re.escape(words)):
        dataclasses.replace(run, compute=compute, model=dataclasses.replace(run.model, head_dim=head_dim))
    splash = dataclasses.replace(compute, attention="splash")
    assert dataclasses.replace(run, compute=splash).compute.splash is WIDE
