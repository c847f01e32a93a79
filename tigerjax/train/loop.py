"""The training loop. Pretraining, SFT and reward training all run it: they differ in loader and objective only."""

import functools
import itertools
import signal
import sys
import time
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from tigerjax import config as config_lib
from tigerjax.checkpoint.model import make_meta
from tigerjax.checkpoint.partial import BASE
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.progress import Progress
from tigerjax.mesh import host_rows, run_mesh
from tigerjax.processes import hosts
from tigerjax.train import branch, resume
from tigerjax.train import objective as objectives
from tigerjax.train import validation as validations
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.feed import Fed, Feed
from tigerjax.train.goodput import Goodput
from tigerjax.train.held_out import NOTHING, HeldOut, QuestionSet
from tigerjax.train.local import LocalSaves
from tigerjax.train.metrics import MetricsWriter, Reporting, last_record
from tigerjax.train.objective import Objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.signals import noted
from tigerjax.train.start import Init, check_entries, ended, new_state
from tigerjax.train.starting import Starting
from tigerjax.train.state import TrainState, abstract_state, to_disk, whole_weights
from tigerjax.train.step import compile_step
from tigerjax.train.trace import Trace
from tigerjax.train.watch import Watch


def train(
    config: RunConfig,
    loader: Any,
    *,
    run_dir: str | Path,
    objective: Objective | None = None,
    mesh: Mesh | None = None,
    init: Init | None = None,
    held_out: HeldOut = NOTHING,
    reporting: Reporting = Reporting(),
) -> TrainState:
    """Trains to `optim.total_steps` and returns the final state, as it is on disk: its checkpoint is saved by then.

    `loader` gives batches by next(): pytrees of numpy arrays whose leading axis is this process's rows
    (`mesh.host_rows`). It has state() and restore() and, optionally, seen() (shares of its sources), tokenizer_sha256
    (goes into the checkpoints) and vocab_size (must be the model's). `objective` and `mesh`
    None are those of the config.

    `held_out` is what the weights are validated on, as `config.eval` says; `eval.patience` may end the run before
    `optim.total_steps`.

    The weights to start from are those of the newest whole checkpoint in `run_dir`; else those of
    `checkpoint.branch_from`, with its optimiser's state; else those of `init`; else those of `checkpoint.init_from`;
    else random ones. Writes config.txt, metrics.jsonl, tensorboard/ and checkpoints/ under
    `run_dir`. SIGINT and SIGTERM, on any host, save a checkpoint and then raise KeyboardInterrupt or SystemExit(143); a
    signal that this process was started to ignore (`nohup`, `command &` in a script) stays ignored.

    Raises ConfigError for a checkpoint of another model, tokenizer or data seed. Raises DataError when every checkpoint
    of the run is damaged, or when more than `health.skip` updates in a row were refused and the run has already gone
    back `health.rollbacks` times.

    No other process may train in `run_dir` meanwhile: ConfigError.
    """
    resume.refuse_stage(paths.of(run_dir))
    with hosts.alone_in(paths.of(run_dir)):
        try:
            return _train(
                config,
                loader,
                run_dir=run_dir,
                objective=objective,
                mesh=mesh,
                init=init,
                held_out=held_out,
                reporting=reporting,
            )
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(str(interrupt) or resume.left(paths.of(run_dir))) from None


def _train(
    config: RunConfig,
    loader: Any,
    *,
    run_dir: str | Path,
    objective: Objective | None,
    mesh: Mesh | None,
    init: Init | None,
    held_out: HeldOut,
    reporting: Reporting,
) -> TrainState:
    """`train`, with the run's folder locked."""
    # Mesh, objective, optimiser
    starting = reporting.starting or Starting(since=time.time())
    starting.at("devices")
    run_dir, total_steps = paths.of(run_dir), config.optim.total_steps
    mesh = run_mesh(config) if mesh is None else mesh
    starting.at("state")
    objective = objectives.of(config, mesh) if objective is None else objective
    tx = make_optimizer(config.optim)
    validation = validations.of_run(config, held_out, objective, mesh)
    tokenizer_sha256 = getattr(loader, "tokenizer_sha256", None)
    check_entries(config, getattr(loader, "vocab_size", None))

    # State: resumed, given, or new
    saving = config.checkpoint
    checkpoints = Checkpointer(run_dir, keep=saving.keep, keep_every_steps=saving.keep_every_steps)
    local = LocalSaves(saving, run_dir)
    meta = make_meta(
        kind=objective.kind,
        model=config.model,
        tokenizer_sha256=tokenizer_sha256,
        config=config_lib.dump(config),
        data_seed=config.seed,
    )
    settings: dict[str, Any] = dict(line.split(" = ", 1) for line in meta["config"])
    settings |= {"tokenizer": tokenizer_sha256, "data": loader.state()}
    settings["held out"] = held_out.hashes()
    hosts.same("the run's config, tokenizer or data", settings)
    abstract = abstract_state(objective, tx, mesh)
    resumed = resume.restored(loader, checkpoints, local, meta, objective, abstract, mesh)
    if resumed is None and saving.branch_from is not None:
        if init is not None:
            raise ConfigError(
                f"checkpoint.branch_from={saving.branch_from!r} continues a run, but this one is given weights to start"
                " from; leave checkpoint.branch_from out"
            )
        resumed = branch.branched(config, loader, checkpoints, meta, objective, abstract, mesh)
    if resumed is not None:
        state, there = resumed
        start = there["step"]
        validation.restore(there.get("validation"))
        checkpoints.best = validation.best_checkpoint
        nothing = ended(config, start, checkpoints.folder / str(start))
        if nothing is None and validation.ended:
            nothing = f"{config.name}: {validation.early_end(checkpoints.folder)}, nothing to train"
        hosts.say(nothing or f"resuming {config.name} from step {start}")
    else:
        state, there = new_state(config, meta, objective, tx, mesh, init, checkpoints.folder)
        start = 0
    meta |= {name: there[name] for name in ("extra", BASE) if name in there}
    if start >= total_steps or validation.ended:
        if not validation.missing(start):
            checkpoints.close()
            local.close(ended=True)
            return to_disk(state, objective)
    if hosts.is_writer():
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / config_lib.DUMPED).write_text("\n".join(meta["config"]) + "\n", encoding="utf-8")
    hosts.barrier("run folder made")
    if not (run_dir / config_lib.DUMPED).is_file():
        raise ConfigError(f"{run_dir} is another folder here than for host 0; give a run folder that all hosts share")

    local.begin(start)
    starting.at("rows")

    # Loop
    step = compile_step(objective, tx, config.optim, mesh)
    mine = host_rows(mesh, config.global_batch_size)
    row_tokens = len(mine) * config.data.seq_len
    feed_from = functools.partial(
        Feed,
        loader,
        mesh,
        rows=mine,
        batch_rows=config.global_batch_size,
        tokens=objective.tokens or (lambda _: row_tokens),
    )
    feed = feed_from(batches=total_steps - start)
    metrics = MetricsWriter(
        run_dir,
        name=config.name,
        start_step=start,
        total_steps=total_steps,
        config=meta["config"],
        reporting=reporting,
    )
    goodput = Goodput(starting=starting, last=last_record(run_dir) if hosts.is_writer() else {})
    watch = Watch(
        config,
        run_dir,
        checkpoints=checkpoints,
        metrics=metrics,
        mesh=mesh,
        goodput=goodput,
        validation=validation,
        trained=objective.trained,
    )
    watch.spikes.restore(there.get("health"))
    if reporting.event is not None:
        watch.event({"step": start} | reporting.event)
    trace = Trace(run_dir, reporting.profile_steps)
    if reporting.profile_steps is not None and start >= reporting.profile_steps[0]:
        hosts.say(f"no trace: the run resumes at step {start}, past the first step of --profile-steps")
    fed: Fed | None = None
    saved = i = start
    try:
        with noted() as received:
            stop, turns = hosts.Stop(received), itertools.count(start)  # a rollback repeats steps, but no turn

            def stopping() -> bool:
                return stop.before(next(turns))

            def interrupted() -> bool:
                # Alone, a signal ends a wait; with other hosts all stop after the same step.
                return bool(received) and not hosts.several()

            if validation.missing(start):
                metrics.amend(
                    start,
                    watch.validated(start, lambda: validation.run(start, whole_weights(state, objective), stopping)),
                )
                validation.saved(start)
            while not (i >= total_steps or validation.ended or stopping()):
                hosts.at(f"reading batch {i + 1}")
                with goodput.spending("data"):
                    fed_next = feed.get(interrupted)
                    if fed_next is not None and objective.prepare is not None:
                        fed_next = objective.prepare(whole_weights(state, objective), fed_next, interrupted)
                if fed_next is None:
                    break
                trace.before(i + 1)
                hosts.at(f"in step {i + 1}")
                if fed is None:
                    starting.at("compile")
                with goodput.spending("compile" if fed is None else "steps"):
                    called = time.perf_counter()
                    state, values = step(state, fed_next.batch, watch.spikes.limits(i + 1))
                    called = time.perf_counter() - called
                if fed is None and reporting.starting is not None:
                    hosts.say(starting.line())
                fed = fed_next
                watch.read(called)  # the step before this one: the device already has its next work
                watch.started(i + 1, {**values, **fed.figures}, fed)
                metrics.advance(i + 1)
                trace.after(i + 1, state)
                i += 1
                if validation.due(i):
                    weights = whole_weights(state, objective)
                    watch.read(validate=functools.partial(validation.run, i, weights, stopping))
                    del weights
                due = i % config.checkpoint.every_steps == 0 or i == total_steps or validation.ended
                if due or local.due(i):
                    watch.read()
                    if watch.back_before is None:
                        watch.check_finite(i, state, fed)
                if watch.back_before is not None:
                    feed.close()
                    state, i = resume.back(watch, checkpoints, loader, fed, objective, abstract, state)
                    local.begin(i)
                    feed, saved = feed_from(batches=total_steps - i), i
                elif due:
                    with goodput.spending("save"):
                        metrics.flush()
                        resume.save(checkpoints, i, to_disk(state, objective), meta, watch, fed)
                    saved = i
                elif local.due(i):
                    with goodput.spending("save"):
                        metrics.flush()
                        local.save(i, to_disk(state, objective), meta | watch.checkpoint_meta(fed))
            watch.read()
            at = int(state.step)
            if stop.number and fed is not None and at != saved:
                watch.check_finite(at, state, fed)
                if watch.back_before is None:
                    metrics.flush()
                    resume.save(checkpoints, at, to_disk(state, objective), meta, watch, fed)
            hosts.at("waiting for the last checkpoint")
            checkpoints.wait()
    finally:
        feed.close()
        metrics.close()
        trace.close()
        error = sys.exc_info()[1]
        if error is None or not hosts.several():
            checkpoints.close()
            local.settle()
        elif isinstance(error, ConfigError | DataError):  # else another host may be lost, and the save never end
            checkpoints.settle()
            local.settle()
        local.close(ended=error is None and (saved >= total_steps or validation.ended))
    if stop.number:
        name = signal.Signals(stop.number).name
        outcome = "checkpoint saved; the same command resumes" if at else "before there was anything to save"
        if watch.back_before is not None:
            outcome = "not saved, since its state is not finite; the same command resumes from the checkpoint before"
        hosts.say(f"{name}: stopped after step {at}/{total_steps}, {outcome}")
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt("interrupted; run the same command again to continue")
        raise SystemExit(128 + stop.number)
    if validation.ended and at < total_steps:
        hosts.say(f"{config.name}: ended at step {at}/{total_steps}: {validation.early_end(checkpoints.folder)}")
    return to_disk(state, objective)


def train_on_mixture(
    config: RunConfig,
    *,
    run_dir: str | Path,
    ask: QuestionSet | None = None,
    progress: Progress | None = None,
    reporting: Reporting = Reporting(),
) -> Any:
    """Trains on the mixture that the config names, on the config's mesh; returns the loader, which knows the shares
    that were read. `ask` puts `eval.questions`, where there are some, and `progress` shows the making of the rows.

    Raises ConfigError for `eval.questions` without `ask`.
    """
    from tigerjax.data.held_out import open_sets  # inside: the numeric core imports without SeqIO
    from tigerjax.data.mixture import open_loader

    starting = reporting.starting or Starting(since=time.time())
    starting.at("devices")
    mesh = run_mesh(config)  # first: a mesh that does not fit is found before the rows are made
    starting.at("rows")
    if config.eval.questions and ask is None:
        raise ConfigError("eval.questions are asked by `tigerjax train` and `tigerjax align`; leave them out here")
    held_out = HeldOut(open_sets(config.data, config.eval, progress=progress), ask)
    validations.refuse_unfit(config, held_out)
    loader = open_loader(
        config.data,
        batch_rows=config.global_batch_size,
        seed=config.seed,
        mine=host_rows(mesh, config.global_batch_size),
        total_rows=config.global_batch_size * config.optim.total_steps,
        progress=progress,
    )
    train(config, loader, run_dir=run_dir, mesh=mesh, held_out=held_out, reporting=reporting)
    return loader
