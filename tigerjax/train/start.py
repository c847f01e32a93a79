"""What a run starts from, and whether a checkpoint belongs to it."""

import dataclasses
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from tigerjax.checkpoint.finite import refuse_not_finite
from tigerjax.checkpoint.model import make_meta
from tigerjax.checkpoint.stored import StoredModel, open_whole, placed_weights
from tigerjax.config import RopeConfig, RunConfig, other_sizes
from tigerjax.config.rope import USES
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.model.hf_config import reach, say_past
from tigerjax.processes import hosts
from tigerjax.train.objective import Objective
from tigerjax.train.state import TrainState, init_state, state_from_weights


def new_state(
    config: RunConfig, meta: dict[str, Any], objective: Objective, tx: Any, mesh: Mesh, init_weights: Any
) -> TrainState:
    """The state before step 1, its weights from `init_weights`, else from `checkpoint.init_from`, else random."""
    if init_weights is None and config.checkpoint.init_from is not None:
        stored = open_whole(config.checkpoint.init_from)
        # Another rope needs no other weights: a run that teaches a model longer rows starts so.
        sizes = dataclasses.replace(stored.config, rope=config.model.rope)
        given = make_meta(kind=stored.kind, model=sizes, tokenizer_sha256=stored.tokenizer_sha256)
        check_same(given | {"data_seed": config.seed}, meta, paths.of(config.checkpoint.init_from))
        _say_rope(config, stored)
        init_weights = placed_weights(stored, mesh, "float32")
    if init_weights is not None:
        refuse_not_finite(dict(init_weights), "the weights to start from")
        return state_from_weights(objective, tx, mesh, init_weights)
    return init_state(objective, tx, mesh, seed=config.seed)


def _say_rope(config: RunConfig, stored: StoredModel) -> None:
    """Says where the rows are longer than the start weights know, and where their angles are scaled in another way."""
    ours, theirs = config.model.rope, stored.config.rope
    if ours != theirs:
        hosts.say(f"start weights had rope {_shown(theirs)}; this run has {_shown(ours)}")
    known = reach(config.model, stored.extra, [])  # of an import; a run of ours may well train on longer rows
    say_past(known, config.model, config.data.seq_len, config.checkpoint.init_from)


def _shown(rope: RopeConfig) -> str:
    return " ".join(f"{name}={getattr(rope, name)!r}" for name in ("kind", *USES[rope.kind]))


def check_same(there: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuses another model, tokenizer, kind or data seed; says which other settings changed."""
    differs = other_sizes(there["model"], wanted["model"])
    for name in ("kind", "tokenizer_sha256", "data_seed"):
        both_known = there[name] is not None and wanted[name] is not None
        if both_known and there[name] != wanted[name]:
            differs.append(f"{name} is {there[name]!r} there and {wanted[name]!r} here")
    if differs:
        raise ConfigError(f"checkpoint {path} does not belong to this run: {'; '.join(differs)}")
    before, now = ({line for line in one["config"] if not line.startswith("eval.")} for one in (there, wanted))
    if before and before != now:
        changed = "; ".join(sorted(now - before))
        hosts.say(f"resuming with other settings than the checkpoint's, so not bit-exactly: {changed}")
