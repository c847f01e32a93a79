"""Every schedule against its formula, and what of them is refused."""

import dataclasses

import numpy as np
import pytest

from tigerjax.config import OptimConfig, ScheduleConfig
from tigerjax.errors import ConfigError
from tigerjax.train.schedule import learning_rate

TOLERANCE = 1e-6  # float32
OPTIM = OptimConfig(
    peak_lr=0.5, final_lr_fraction=0.1, warmup_steps=4, total_steps=20, beta1=0.8, beta2=0.9, eps=1e-3,
    weight_decay=0.3, clip_norm=None,
)  # fmt: skip


def with_schedule(optim=OPTIM, *, fraction=0.1, **schedule):
    return dataclasses.replace(optim, final_lr_fraction=fraction, schedule=ScheduleConfig(**schedule))


def rates(c):
    return [float(learning_rate(c, i)) for i in range(c.schedule.first_step, c.total_steps)]


def test_cosine_rises_to_the_peak_and_falls_to_its_last_fraction():
    found = rates(OPTIM)
    np.testing.assert_allclose(found[:4], [0.125, 0.25, 0.375, 0.5], rtol=TOLERANCE)
    assert found[3] == max(found) and found[4:] == sorted(found[4:], reverse=True)
    np.testing.assert_allclose(found[-1], 0.05, rtol=TOLERANCE)
    np.testing.assert_allclose(found[11], 0.05 + 0.45 / 2, rtol=TOLERANCE)  # half way down the cosine


def of_torch(name, arguments):
    """The rates of torch's warm-up from 1/4, then of its scheduler `name`."""
    import torch

    sgd, made = torch.optim.SGD([torch.zeros(1)], lr=0.5), torch.optim.lr_scheduler
    warmup = made.LinearLR(sgd, start_factor=0.25, total_iters=3)
    both = made.SequentialLR(sgd, [warmup, getattr(made, name)(sgd, **arguments)], milestones=[3])
    found = []
    for _ in range(20):
        found.append(sgd.param_groups[0]["lr"])
        sgd.step()
        both.step()
    return found


@pytest.mark.peers
@pytest.mark.parametrize(
    ("kind", "fraction", "name", "arguments"),
    [
        ("cosine", 0.1, "CosineAnnealingLR", dict(T_max=16, eta_min=0.05)),
        ("linear", 0.1, "LinearLR", dict(start_factor=1.0, end_factor=0.1, total_iters=16)),
        ("constant", 1.0, "ConstantLR", dict(factor=1.0)),
    ],
)
def test_a_schedule_is_torchs(kind, fraction, name, arguments):
    found = rates(with_schedule(kind=kind, fraction=fraction))
    np.testing.assert_allclose(found, of_torch(name, arguments), rtol=1e-5)


@pytest.mark.parametrize(
    ("decay", "formula"),
    [
        ("linear", lambda x: 0.05 + 0.45 * (1 - x)),
        ("sqrt", lambda x: 0.05 + 0.45 * (1 - np.sqrt(x))),
        ("exponential", lambda x: 0.5 * 0.1**x),
    ],
)
def test_wsd_stays_at_the_peak_and_falls_in_its_last_steps(decay, formula):
    found = rates(with_schedule(kind="wsd", decay_steps=5, decay=decay))
    np.testing.assert_allclose(found[:4], [0.125, 0.25, 0.375, 0.5], rtol=TOLERANCE)
    np.testing.assert_allclose(found[4:15], 0.5, rtol=TOLERANCE)
    np.testing.assert_allclose(found[15:], formula(np.arange(1, 6) / 5), rtol=1e-5)


def test_a_schedule_that_begins_anew_rises_from_where_the_old_one_ended():
    old = rates(OPTIM)
    new = with_schedule(dataclasses.replace(OPTIM, total_steps=40), first_step=20, warmup_from=0.1)
    found = rates(new)
    np.testing.assert_allclose(found[:4], old[-1] + 0.45 * np.arange(1, 5) / 4, rtol=TOLERANCE)
    np.testing.assert_allclose(found[4:], old[4:], rtol=TOLERANCE)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (dict(kind="wsd"), "needs optim.schedule.decay_steps"),
        (dict(kind="wsd", decay_steps=17), r"warmup_steps=4 \+ optim.schedule.decay_steps=17 do not fit into"),
        (dict(kind="linear", decay_steps=5), "decay_steps=5 is not read by kind linear"),
        (dict(decay="sqrt"), "decay='sqrt' is not read by kind cosine"),
        (dict(kind="constant"), "final_lr_fraction=0.1, but .* the rate does not fall"),
        (dict(kind="wsd", decay_steps=5, decay="exponential", fraction=0.0), "never reached by factors"),
        (dict(first_step=16), r"first_step=16 \+ optim.warmup_steps=4 do not fit"),
    ],
)
def test_a_schedule_that_cannot_work_is_refused(change, match):
    with pytest.raises(ConfigError, match=match) as caught:
        with_schedule(**change)
    assert "\n" not in str(caught.value)


def test_a_warmup_that_begins_somewhere_needs_steps():
    with pytest.raises(ConfigError, match=r"warmup_from=0\.5 is the rate before the first"):
        with_schedule(dataclasses.replace(OPTIM, warmup_steps=0), warmup_from=0.5)
