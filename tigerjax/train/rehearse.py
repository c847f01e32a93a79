"""Looks at the checkpoint that a run would start from, before the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax

from tigerjax.checkpoint.files import FOLDER, read_meta, steps
from tigerjax.checkpoint.model import make_meta
from tigerjax.checkpoint.stored import open_model
from tigerjax.config import FLOAT32, RunConfig, dump
from tigerjax.files import paths
from tigerjax.model import families
from tigerjax.model.layers import init
from tigerjax.processes import hosts
from tigerjax.train import branch
from tigerjax.train.objective import selection_of
from tigerjax.train.start import check_entries, check_same, check_start, ended, present, without_base
from tigerjax.train.state import check_same_shapes


def rehearse(config: RunConfig, run_dir: Path, open_tokenizer: Callable[[], Any]) -> None:
    """Checks which weights a run would train, and the checkpoint that it would start from, as
    `tigerjax.train.loop.train` will, without the weights.

    The checkpoint is the newest one in `run_dir`, else that of `checkpoint.branch_from` or `checkpoint.init_from`.
    Where the config names none, no checkpoint is checked, and no tokenizer opened. Files are only counted and measured,
    so damaged bytes are not found.

    Raises ConfigError for weights that the model does not have, and for a checkpoint of another model, tokenizer or
    data seed; DataError for one that is not there or whose arrays do not fit the config's model.
    """
    init_from, branch_from = config.checkpoint.init_from, config.checkpoint.branch_from
    selection = selection_of(config)
    there = steps(paths.of(run_dir) / FOLDER)
    if init_from is None and branch_from is None:
        if selection is not None and selection.partial and not there:
            raise without_base()
        return
    tokenizer = open_tokenizer()
    check_entries(config, tokenizer.size)
    family = families.of(config.model)
    meta = make_meta(
        kind=family.KIND,
        model=config.model,
        tokenizer_sha256=tokenizer.sha256,
        config=dump(config),
        data_seed=config.seed,
    )
    if there:
        stored = open_model(run_dir)
        check_same(read_meta(stored.path), meta, stored.path)
    elif init_from is not None:
        stored = open_model(present(init_from, "checkpoint.init_from"))
        check_start(config, meta, stored)
    else:
        stored = open_model(branch.opened(config, meta)[0])
    model = family.language_model(config.model, FLOAT32)
    wanted = jax.eval_shape(lambda: nn.unbox(init(model, jax.random.key(0))))
    check_same_shapes(stored.weights, wanted, what=f"{stored.path}: its weights")
    if there:
        hosts.say(ended(config, stored.step, stored.path) or f"would resume {config.name} from step {stored.step}")
