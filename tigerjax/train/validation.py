"""What a run makes of its validations: when they are due, the best figure so far, an early end, and a warning.

All of it is decided from numbers that every host has, and is saved in the checkpoints. So hosts decide alike, and a
resumed run decides as the uninterrupted one would have.
"""

import dataclasses
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

from jax.sharding import Mesh

from tigerjax.config import EvalConfig, RunConfig
from tigerjax.errors import ConfigError, near_miss
from tigerjax.processes import hosts
from tigerjax.train.held_out import MEASURED, TABLES, Figures, HeldOut, QuestionSet, Validator, flat
from tigerjax.train.objective import Objective

RISES = 3
"""A held-out loss that was higher at so many validations in a row is called rising, where the loss of training was
lower in the last of these intervals than in the one before the first [our choice]. One validation proves little."""


@dataclasses.dataclass(frozen=True)
class At:
    """A figure and the step of its validation."""

    step: int
    value: float | None


class Validation:
    """The validations of a run. Without held-out sets (`validator` None) none is ever due."""

    def __init__(self, config: EvalConfig, validator: Validator | None, *, total_steps: int, keep_best: bool):
        """ConfigError for a metric that no set has, and where one must be named and is not."""
        self._config, self._validator, self._total = config, validator, total_steps
        self.metric: str | None = None
        if validator is not None:
            needed = keep_best or config.patience is not None
            self.metric = _metric(config, validator.names, validator.hashes, needed=needed)
        self._keep_best = keep_best
        self._forget()

    def _forget(self) -> None:
        self._best: At | None = None  # of all validations; `patience` counts from it
        self._kept: At | None = None  # of those whose step was saved
        self._last: At | None = None
        self._since = 0  # validations since the best
        self._trained = (0.0, 0.0)  # loss of training since the last validation: sum, weight
        self._window: list[dict[str, Any]] = []  # the last validations: {train, losses}

    def due(self, step: int) -> bool:
        """Whether the weights after `step` are to be validated."""
        every = self._config.every_steps
        return self._validator is not None and (step == self._total or (every is not None and step % every == 0))

    def missing(self, step: int) -> bool:
        """Whether the validation of `step` was due and is not known: a signal cut it short, or its sets are new."""
        return step > 0 and self.due(step) and (self._last is None or self._last.step != step)

    @property
    def ended(self) -> bool:
        """Whether the run is to end early: no better figure at the last `eval.patience` validations."""
        return self._config.patience is not None and self._since >= self._config.patience

    @property
    def best_checkpoint(self) -> int | None:
        """The step whose checkpoint `checkpoint.keep_best` keeps."""
        return self._kept.step if self._keep_best and self._kept is not None else None

    def trained(self, loss_nats: float, weight: float) -> None:
        """Counts the loss of a step of training."""
        self._trained = (self._trained[0] + loss_nats * weight, self._trained[1] + weight)

    def run(self, step: int, weights: Any, stop: Callable[[], bool]) -> dict[str, Any]:
        """Validates the weights after `step`; returns what is logged of it: {validation, train_loss_nats, rising}.

        Empty where `stop`, asked before each batch, said so: then this validation counts as not made."""
        assert self._validator is not None
        found = self._validator.run(weights, stop)
        if found is None:
            return {}
        loss, weight = self._trained
        train = loss / weight if weight else None
        self._trained = (0.0, 0.0)
        self._count(step, flat(found).get(self.metric or ""))
        return {"validation": found, "train_loss_nats": train, "rising": self._rising(found, train)}

    def _count(self, step: int, value: float | None) -> None:
        self._last = At(step, value)
        if self.metric is None:
            return
        if value is not None and (self._best is None or self._better(value, self._best.value)):
            self._best, self._since = self._last, 0
        else:
            self._since += 1

    def saved(self, step: int) -> None:
        """Called before the checkpoint of `step` is saved."""
        last, kept = self._last, self._kept
        if last is None or last.step != step or last.value is None:
            return
        if kept is None or not self._better(kept.value, last.value):  # of equal ones the newest
            self._kept = last

    def _better(self, value: float | None, other: float | None) -> bool:
        assert value is not None and other is not None and self.metric is not None
        return value < other if self.metric.endswith("loss_nats") else value > other

    def _rising(self, found: Figures, train: float | None) -> list[str]:
        """The sets and sources whose loss rises while that of training falls."""
        losses = {}
        for name, loss in flat(found).items():
            at = name.removesuffix("/loss_nats")
            if at != name and (at in found or f"/{TABLES['by_source']}/" in at):
                losses[at] = loss
        self._window = [*self._window, {"train": train, "losses": losses}][-RISES - 1 :]
        if len(self._window) <= RISES or not _falls([self._window[0]["train"], train]):
            return []
        return [n for n in losses if _falls([one["losses"].get(n) for one in reversed(self._window)])]

    def early_end(self, folder: Any) -> str:
        """Why the run ends early, in words; `folder` is that of its checkpoints."""
        what = f"{self.metric} has not become better at {self._since} validations in a row (eval.patience)"
        if self._best is None:
            return what
        kept = self.best_checkpoint
        place = f", whose checkpoint is {folder / str(kept)}" if kept == self._best.step else ""
        return f"{what}; the best was {self._best.value:.4g} at step {self._best.step}{place}"

    def state(self) -> dict[str, Any] | None:
        """JSON, for the checkpoint; None for a run without held-out sets."""
        if self._validator is None:
            return None
        figures = {"best": self._best, "kept": self._kept, "last": self._last}
        return {
            "metric": self.metric,
            "sets": self._validator.hashes,
            "since": self._since,
            "trained": list(self._trained),
            "window": self._window,
            **{name: None if at is None else [at.step, at.value] for name, at in figures.items()},
        }

    def restore(self, state: dict[str, Any] | None) -> None:
        """Puts back what `state` returned; None forgets everything. Says where the sets or the metric are others, as
        figures of these cannot be compared."""
        self._forget()
        if state is None or self._validator is None:
            return
        if (state["metric"], state["sets"]) != (self.metric, self._validator.hashes):
            hosts.say("held-out sets or eval.metric are not those of the checkpoint: the best figure counts anew")
            return
        self._since, self._window = state["since"], state["window"]
        self._trained = (state["trained"][0], state["trained"][1])
        self._best, self._kept, self._last = (
            None if state[name] is None else At(*state[name]) for name in ("best", "kept", "last")
        )


def _falls(values: list[float | None]) -> bool:
    """Whether each value is lower than the one before; False where one is not known."""
    known = [value for value in values if value is not None]
    return len(known) == len(values) and all(after < before for before, after in itertools.pairwise(known))


def refuse_unfit(config: RunConfig, held_out: HeldOut) -> None:
    """ConfigError where the fields of `eval` ask for what is not held out: call it before rows are made."""
    _refuse(config, held_out.hashes(), held_out.names())


def refuse_unfit_names(config: RunConfig, sets: Collection[str], ask: QuestionSet | None) -> None:
    """`refuse_unfit` where only the names of the sets are known. Which languages, sources and tasks they have is not:
    figures of these are taken to be there."""
    known = [f"{name}/{figure}" for name in sets for figure in MEASURED]
    metric = config.eval.metric or ""
    if any(metric.startswith(f"{name}/{word}/") for name in sets for word in TABLES.values()):
        known.append(metric)
    if ask is not None:
        known += ask.names
    _refuse(config, {*sets, *(ask.sha256 if ask is not None else ())}, known)


def _refuse(config: RunConfig, sets: Collection[str], known: Sequence[str]) -> None:
    """ConfigError where the fields of `eval` ask for another figure than those `known` of the `sets`."""
    if not sets:
        if config.eval != EvalConfig():
            raise ConfigError(
                "eval: there is no held-out set; give eval.sets, such as --eval.sets wiki=wiki.jsonl, or hold out a"
                " share of a source (Source.held_out)"
            )
        return
    needed = config.checkpoint.keep_best or config.eval.patience is not None
    _metric(config.eval, known, sets, needed=needed)


def of_run(config: RunConfig, held_out: HeldOut, objective: Objective, mesh: Mesh) -> Validation:
    """The validations of a run on what is held out. ConfigError where the config asks for what cannot be."""
    given, validator = config.eval, None
    if objective.by_row is None and (held_out.hashes() or given != EvalConfig()):
        raise ConfigError(
            f"eval: training of a {objective.kind} model has no loss on held-out texts; leave the fields of eval out"
        )
    refuse_unfit(config, held_out)
    if objective.by_row is not None and held_out.hashes():
        validator = Validator(config, held_out, objective, mesh)
    return Validation(given, validator, total_steps=config.optim.total_steps, keep_best=config.checkpoint.keep_best)


def _metric(config: EvalConfig, known: Sequence[str], sets: Collection[str], *, needed: bool) -> str | None:
    """The figure to go by, of those that are `known` of the `sets`; None where none is needed or given."""
    if config.metric in known:
        return config.metric
    if config.metric is not None:
        hint = near_miss(config.metric, known)
        raise ConfigError(
            f"eval.metric={config.metric!r} is no figure of the held-out sets{hint}; give one of them, such as"
            f" {', '.join(known[:6])}"
        )
    if len(sets) == 1:
        return known[0]
    if needed:
        whole = ", ".join(name for name in known if name.rpartition("/")[0] in sets)
        raise ConfigError(f"eval.metric must say which figure counts, as there are several sets; such as {whole}")
    return None
