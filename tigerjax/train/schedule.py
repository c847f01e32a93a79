"""The learning rate of each update: a warm-up in a straight line, then the schedule that the config names."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from tigerjax.config import OptimConfig


def learning_rate(c: OptimConfig, step: jax.Array | int) -> jax.Array:
    """The learning rate, float32 (), of the update that follows `step` updates.

    It rises in a straight line to peak_lr at update `warmup_steps`, counted from `schedule.first_step`. A later first
    step warms a run up again: Ibrahim et al. 2024 (arXiv 2403.08763), section 4. What follows ends at final = peak_lr *
    final_lr_fraction with the last update, where the kind does not say otherwise. x is the share of the way that is
    over, from 0 to 1.

        cosine               final + (peak - final) * (1 + cos(pi x)) / 2: Loshchilov & Hutter 2017 (arXiv 1608.03983),
                             equation 5
        linear               final + (peak - final) * (1 - x)
        constant             peak
        wsd                  peak, and in the last `decay_steps`: Hu et al. 2024 (MiniCPM, arXiv 2404.06395),
                             section 4
            linear           final + (peak - final) * (1 - x)
            sqrt             final + (peak - final) * (1 - sqrt(x)): Hägele et al. 2024 (arXiv 2405.18392)
            exponential      peak * (final / peak)^x
    """
    schedule = RATES[c.schedule.kind](c, c.total_steps - c.schedule.first_step)
    return jnp.asarray(schedule(step - c.schedule.first_step + 1), jnp.float32)  # + 1: the first update moves weights


def stable_until(c: OptimConfig) -> int:
    """The last step at which a checkpoint may be branched from, so that a whole decay follows: the end of wsd's stable
    phase, or of the run where the schedule has none."""
    return c.total_steps - (c.schedule.decay_steps or 0)


def _cosine(c: OptimConfig, steps: int) -> optax.Schedule:
    return optax.warmup_cosine_decay_schedule(
        init_value=c.peak_lr * c.schedule.warmup_from,
        peak_value=c.peak_lr,
        warmup_steps=c.warmup_steps,
        decay_steps=steps,
        end_value=c.peak_lr * c.final_lr_fraction,
    )


def _linear(c: OptimConfig, steps: int) -> optax.Schedule:
    return _after_warmup(c, optax.linear_schedule(c.peak_lr, c.peak_lr * c.final_lr_fraction, steps - c.warmup_steps))


def _constant(c: OptimConfig, steps: int) -> optax.Schedule:
    return _after_warmup(c, optax.constant_schedule(c.peak_lr))


def _wsd(c: OptimConfig, steps: int) -> optax.Schedule:
    assert c.schedule.decay_steps is not None, "OptimConfig refuses it"
    peak, fall = c.peak_lr, c.schedule.decay_steps
    final = peak * c.final_lr_fraction

    def root(count: jax.typing.ArrayLike) -> jax.Array:
        return final + (peak - final) * (1 - jnp.sqrt(jnp.clip(jnp.asarray(count) / fall, 0, 1)))

    match c.schedule.decay:
        case "linear":
            decay = optax.linear_schedule(peak, final, fall)
        case "sqrt":
            decay = root
        case "exponential":
            decay = optax.exponential_decay(peak, fall, c.final_lr_fraction)
    return optax.join_schedules([_after_warmup(c, optax.constant_schedule(peak)), decay], [steps - fall])


def _after_warmup(c: OptimConfig, schedule: optax.Schedule) -> optax.Schedule:
    warmup = optax.linear_schedule(c.peak_lr * c.schedule.warmup_from, c.peak_lr, c.warmup_steps)
    return optax.join_schedules([warmup, schedule], [c.warmup_steps])


RATES: dict[str, Callable[[OptimConfig, int], optax.Schedule]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "wsd": _wsd,
}
"""(settings, steps from the begin of the warm-up to the end) -> the rate by the number of updates since then."""
