"""The settings of the optimiser: which one it is, its learning rate over the run, and the mean of the weights."""

import dataclasses
from typing import Annotated, Literal

from tigerjax.config.model import LATER, Dtype
from tigerjax.config.ranges import Count, CountOrZero, PositiveFactor, Range, Share, check
from tigerjax.errors import ConfigError

Decay = Annotated[float, Range(0, 1, below=True)]


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """The learning rate from the end of the warm-up on, and where the warm-up begins."""

    kind: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """cosine and linear fall from the end of the warm-up to the last step; constant does not fall. wsd (warm-up,
    stable, decay) stays at the peak and falls in the last `decay_steps`."""
    decay_steps: Count | None = None
    """Of wsd: the steps at the end of the run in which the rate falls. MiniCPM (Hu et al. 2024) takes a tenth of all
    steps. None with the other kinds."""
    decay: Literal["linear", "sqrt", "exponential"] = "linear"
    """Of wsd: how the rate falls. linear; as 1 - sqrt(share of the decay that is over); or by the same factor each
    step."""
    warmup_from: Share = 0.0
    """The warm-up begins at optim.peak_lr times this. For a run that continues from a rate that had fallen so far."""
    first_step: CountOrZero = 0
    """The schedule begins after this step, with a warm-up. For re-warming: it is the step of the checkpoint in
    `checkpoint.branch_from`. 0 begins with the run."""

    def __post_init__(self) -> None:
        check(self, "optim.schedule.")
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), field.name
            if self.kind != "wsd" and name in ("decay_steps", "decay") and value != field.default:
                raise ConfigError(
                    f"optim.schedule.{name}={value!r} is not read by kind {self.kind}, only by wsd; leave it out, or"
                    " set optim.schedule.kind"
                )
        if self.kind == "wsd" and self.decay_steps is None:
            raise ConfigError(
                "optim.schedule.kind='wsd' needs optim.schedule.decay_steps, the last steps in which the rate falls;"
                " a tenth of optim.total_steps is usual"
            )


USES: dict[str, tuple[str, ...]] = {
    "adamw": ("beta1", "beta2", "eps", "first_moment_dtype"),
    "adamw_8bit": ("beta1", "beta2", "eps"),
    "muon": ("beta1", "beta2", "eps", "first_moment_dtype", "muon_momentum"),
    "adafactor": ("beta1", "first_moment_dtype"),
}
"""The fields of OptimConfig that each kind of optimiser reads, beside those that all read."""
NEEDED = ("beta2", "eps")
"""Those of them that are numbers where they are read, and None where they are not."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class OptimConfig:
    """The optimiser and its learning rate: a warm-up in a straight line, then `schedule`."""

    peak_lr: Annotated[float, Range(0, 1, above=True)]  # Learning rate at the end of the warm-up
    final_lr_fraction: Share
    """The learning rate ends at optim.peak_lr times this."""
    warmup_steps: CountOrZero  # Steps in which the learning rate rises
    total_steps: Count  # Steps of the run, those of the warm-up included
    beta1: Decay
    """Decay of the running mean of the gradients. With adafactor it is that of its updates, and 0 keeps no mean."""
    beta2: Decay | None
    """Decay of Adam's running mean of the squared gradients. None with adafactor, which has a schedule for it."""
    eps: Annotated[float, Range(1e-30, 1)] | None
    """Added to the root of Adam's running mean of squares. None with adafactor."""
    weight_decay: Annotated[float, Range(0, 100)]
    """Applied to matrices only, not to the scales of norms."""
    clip_norm: PositiveFactor | None  # Gradients with a larger global norm are scaled down to it; None: never
    first_moment_dtype: Dtype = "float32"
    """Type of the running mean of the gradients. bfloat16 saves 2 bytes per weight. That of the squares is float32."""
    gradient_accumulation_steps: Count = 1
    """Micro-batches in a step. The result is that of one batch with all their sequences."""
    kind: Literal["adamw", "adamw_8bit", "muon", "adafactor"] = dataclasses.field(
        default="adamw", metadata={LATER: True}
    )
    """The optimiser. adamw_8bit keeps AdamW's running means in 8 bits. muon turns the gradients of the layers' matrices
    into orthogonal ones, and the other weights have AdamW. adafactor keeps the means of squares by row and column."""
    muon_momentum: Decay = dataclasses.field(default=0.95, metadata={LATER: True})
    """Of muon: decay of the running mean of the gradients of matrices."""
    ema_decay: Annotated[float, Range(0, 1, above=True, below=True)] | None = dataclasses.field(
        default=None, metadata={LATER: True}
    )
    """Decay of a running mean of the weights, which takes 4 bytes per weight and is saved beside them. `convert to-hf
    --weights ema` exports it. None keeps none."""
    schedule: ScheduleConfig = dataclasses.field(default=ScheduleConfig(), metadata={LATER: True})
    """The learning rate after the warm-up"""

    def __post_init__(self) -> None:
        check(self, "optim.")
        if self.warmup_steps >= self.total_steps:
            raise ConfigError(
                f"optim.warmup_steps={self.warmup_steps} must be below optim.total_steps={self.total_steps}; change one"
            )
        self._check_schedule()
        self._check_kind()

    def _check_schedule(self) -> None:
        schedule, warmup, total = self.schedule, self.warmup_steps, self.total_steps
        decay, first = schedule.decay_steps or 0, schedule.first_step
        if first + warmup + max(decay, 1) > total:
            parts = [f"optim.schedule.first_step={first}"] * (first > 0) + [f"optim.warmup_steps={warmup}"]
            parts += [f"optim.schedule.decay_steps={decay}"] * (decay > 0)
            raise ConfigError(f"{' + '.join(parts)} do not fit into optim.total_steps={total}; change one")
        if schedule.kind == "constant" and self.final_lr_fraction != 1:
            raise ConfigError(
                f"optim.final_lr_fraction={self.final_lr_fraction}, but with optim.schedule.kind='constant' the rate"
                " does not fall; set it to 1, or choose another kind"
            )
        if schedule.decay == "exponential" and self.final_lr_fraction == 0:
            raise ConfigError(
                "optim.final_lr_fraction=0 is never reached by factors (optim.schedule.decay='exponential'); raise it,"
                " or choose another decay"
            )
        if schedule.warmup_from and not warmup:
            raise ConfigError(
                f"optim.schedule.warmup_from={schedule.warmup_from} is the rate before the first of"
                " optim.warmup_steps=0; raise those, or leave it out"
            )

    def _check_kind(self) -> None:
        used = USES[self.kind]
        for name in NEEDED:
            value = getattr(self, name)
            if (value is None) == (name in used):
                needed = "a number" if name in used else "None: it has no such number"
                raise ConfigError(f"optim.{name}={value!r}, but optim.kind={self.kind!r} needs {needed}; change one")
        for field in dataclasses.fields(self):
            value, name = getattr(self, field.name), field.name
            readers = ", ".join(kind for kind, names in USES.items() if name in names)
            if readers and name not in (*used, *NEEDED) and value != field.default:
                raise ConfigError(
                    f"optim.{name}={value!r} is not read by optim.kind={self.kind!r}, only by {readers}; leave it out,"
                    " or set optim.kind"
                )
