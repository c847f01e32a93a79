"""What a run starts from, and whether a checkpoint belongs to it."""

import dataclasses
import math
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from tigerjax.checkpoint.finite import refuse_not_finite
from tigerjax.checkpoint.model import make_meta
from tigerjax.checkpoint.partial import BASE, base_of, entry
from tigerjax.checkpoint.stored import StoredModel, open_whole, placed_weights
from tigerjax.config import RopeConfig, RunConfig, other_sizes
from tigerjax.config.rope import USES
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.model import families
from tigerjax.model.hf_config import reach, remembered, say_past
from tigerjax.model.quantised import is_quantised
from tigerjax.processes import hosts
from tigerjax.train.objective import Objective, in_stage_order
from tigerjax.train.state import TrainState, init_state, state_from_weights


class Init(NamedTuple):
    """What a run starts from, where it is not `checkpoint.init_from` of its config."""

    weights: Any
    extra: dict[str, Any]
    """What the run's checkpoints keep of the checkpoint that the weights came from: see `hf_config.remembered`."""
    base: Path | None = None
    """The folder of that checkpoint, which a run needs whose own checkpoints hold only what is trained."""


def new_state(
    config: RunConfig, meta: dict[str, Any], objective: Objective, tx: Any, mesh: Mesh, given: Init | None, folder: Path
) -> tuple[TrainState, dict[str, Any]]:
    """(The state before step 1, what the run's checkpoints in `folder` keep of its origin: entries of meta.json), from
    `given`, else from `checkpoint.init_from`; else with random weights."""
    if given is None and config.checkpoint.init_from is not None:
        stored = open_whole(present(config.checkpoint.init_from, "checkpoint.init_from"))
        check_start(config, meta, stored)
        given = start_weights(stored, objective, mesh)
    selection, origin = objective.trained, dict[str, Any]()
    if selection is not None and selection.partial:
        if given is None or given.base is None:
            raise without_base()
        origin = {BASE: entry(selection, given.base, folder)}
    if given is not None:
        refuse_not_finite(dict(given.weights), "the weights to start from")
        state = state_from_weights(objective, tx, mesh, given.weights, seed=config.seed)
    else:
        state = init_state(objective, tx, mesh, seed=config.seed)
    if selection is not None:
        trained, frozen = (_count(tree) for tree in (state.weights, state.frozen))
        held = selection.frozen_dtype
        hosts.say(f"training {trained:,} weights; {frozen:,} are frozen, which are held in {held}")
    return state, origin | {"extra": given.extra if given is not None else {}}


def without_base() -> ConfigError:
    """The error of a run that trains beside the weights of a checkpoint, and has none."""
    return ConfigError(
        "lora.rank and weights.frozen_dtype are for training beside the weights of a checkpoint, and"
        " checkpoint.init_from names none; set it"
    )


def _count(weights: Any) -> int:
    return sum(math.prod(w.shape) for w in jax.tree.leaves(weights, is_leaf=is_quantised))


def start_weights(stored: StoredModel, objective: Objective, mesh: Mesh) -> Init:
    """The weights of a checkpoint on the mesh, to start from: float32, or as the state of training holds them."""
    selection = objective.trained
    held = (lambda path, w: w) if selection is None else selection.held
    weights = placed_weights(stored, mesh, "float32", held=held)
    return Init(weights, remembered(stored.extra, stored.run_config), stored.path)


def frozen_of(meta: dict[str, Any], path: Path, objective: Objective, mesh: Mesh) -> Any:
    """The frozen weights of a run whose checkpoint `path` with this `meta` holds only what is trained, in the order of
    the objective; None where checkpoints hold all weights."""
    selection, place = objective.trained, base_of(path, meta)
    if selection is None or place is None:
        return None
    stored = open_whole(place)

    def wanted(name: str) -> bool:
        whole = selection.first.get(name) == 0
        return not whole and (name != "head" or not families.is_reward(objective.kind))

    weights = placed_weights(stored, mesh, "float32", wanted=wanted, held=selection.held)
    return selection.hold(in_stage_order(weights, objective.order))


def ended(config: RunConfig, step: int, path: Path) -> str | None:
    """Why there is nothing to train where the newest checkpoint, `path`, has done `step` steps; None where there is."""
    total = config.optim.total_steps
    if step < total:
        return None
    if step == total:
        return f"{config.name}: all {total} steps are done, nothing to train"
    return (
        f"{config.name}: nothing to train, since the config asks for {total} steps (optim.total_steps) and {path} has"
        f" done {step}; to train on, ask for more steps; for a run of {total}, give a new folder (--out)"
    )


def check_entries(config: RunConfig, entries: int | None) -> None:
    """ConfigError unless the config's model has as many entries as the tokenizer of the rows; None is not known."""
    if entries not in (None, config.model.vocab_size):
        raise ConfigError(
            f"model.vocab_size={config.model.vocab_size}, but the tokenizer {config.data.tokenizer} of the rows has"
            f" {entries} entries; make them equal (`tigerjax convert resize` grows a checkpoint)"
        )


def present(place: str, field: str) -> str:
    """`place`, which the config's `field` names; DataError where there is nothing."""
    if not paths.names(paths.of(place)):
        raise DataError(
            f"{field}: there is nothing at {place}; make it first, or give a run folder, its checkpoints/ or one step"
            " of it"
        )
    return place


def _kept(config: list[str]) -> dict[str, str]:
    """The settings, in the dump of a run, that decide which arrays its optimiser keeps."""
    given = dict(line.split(" = ", 1) for line in config)
    kind = given.get("optim.kind", "'adamw'")
    mean = "None" if given.get("optim.ema_decay", "None") == "None" else "a number"
    momentum = "0" if kind == "'adafactor'" and float(given["optim.beta1"]) == 0 else "a number"
    return {"optim.kind": kind, "optim.ema_decay": mean, "optim.beta1": momentum}


def check_start(config: RunConfig, meta: dict[str, Any], stored: StoredModel) -> None:
    """ConfigError unless a run of this `meta` can start from the weights of `checkpoint.init_from`."""
    # Another rope needs no other weights: a run that teaches a model longer rows starts so.
    sizes = dataclasses.replace(stored.config, rope=config.model.rope)
    given = make_meta(kind=stored.kind, model=sizes, tokenizer_sha256=stored.tokenizer_sha256)
    check_same(given | {"data_seed": config.seed}, meta, paths.of(str(config.checkpoint.init_from)))
    _say_rope(config, stored)


def _say_rope(config: RunConfig, stored: StoredModel) -> None:
    """Says where the rows are longer than the start weights know, and where their angles are scaled in another way."""
    ours, theirs = config.model.rope, stored.config.rope
    if ours != theirs:
        hosts.say(f"start weights had rope {_shown(theirs)}; this run has {_shown(ours)}")
    # A run of ours may well train on longer rows than the run before it.
    known = 0 if stored.run_config else reach(config.model, stored.extra, [])
    say_past(known, config.model, config.data.seq_len, config.checkpoint.init_from)


def _shown(rope: RopeConfig) -> str:
    return " ".join(f"{name}={getattr(rope, name)!r}" for name in ("kind", *USES[rope.kind]))


def _other_parts(there: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """In words, what of `weights` and `lora` is other, where both checkpoints are of runs: then their arrays are other
    ones, or are scaled in another way."""
    known = [one["config"] for one in (there, wanted)]
    if not all(known):
        return []
    before, now = ({line for line in lines if line.startswith(("weights.", "lora."))} for lines in known)
    return [f"{line} is {'there' if line in before else 'here'} alone" for line in sorted(before ^ now)]


NO_BIT = (
    "name", "log_every_steps", "data.cache_dir", "checkpoint.every_steps", "checkpoint.keep",
    "checkpoint.keep_every_steps", "checkpoint.keep_best", "checkpoint.local_every_steps", "checkpoint.local_dir",
)  # fmt: skip
"""Settings of which no weight depends: where a run is kept, and what is told of it."""


def check_same(there: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """`refuse_other`, and for a run that resumes: says which other settings changed, of those that may change a bit of
    the weights."""
    refuse_other(there, wanted, path)
    before, now = (set(one["config"]) for one in (there, wanted))
    # A run that may go back goes back to a checkpoint, so it matters when those are saved.
    alone = NO_BIT if "health.rollbacks = 0" in now else tuple(set(NO_BIT) - {"checkpoint.every_steps"})
    # A field of a later version has no line while it has its default (`tigerjax.config.dump`).
    names = {line.split(" = ")[0] for line in now}
    back = {f"{name} = its default" for line in before if (name := line.split(" = ")[0]) not in names}
    others = (now - before) | back
    told = sorted(line for line in others if not line.startswith("eval.") and line.split(" = ")[0] not in alone)
    if before and told:
        changed = "; ".join(told)
        hosts.say(f"resuming with other settings than the checkpoint's, so not bit-exactly: {changed}")


def refuse_other(there: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """ConfigError where a checkpoint is of another model, tokenizer, kind or data seed, or where its optimiser keeps
    other arrays."""
    differs = other_sizes(there["model"], wanted["model"])
    for name in ("kind", "tokenizer_sha256", "data_seed"):
        both_known = there[name] is not None and wanted[name] is not None
        if both_known and there[name] != wanted[name]:
            differs.append(f"{name} is {there[name]!r} there and {wanted[name]!r} here")
    differs += _other_parts(there, wanted)
    if there["config"] and wanted["config"]:
        theirs, ours = _kept(there["config"]), _kept(wanted["config"])
        changed = [name for name in ours if theirs[name] != ours[name]]
        differs += [f"{name} is {theirs[name]} there and {ours[name]} here" for name in changed]
    if differs:
        raise ConfigError(
            f"checkpoint {path} does not belong to this run: {'; '.join(differs)}; give the config these values, or"
            " another checkpoint, or another run folder (--out)"
        )
