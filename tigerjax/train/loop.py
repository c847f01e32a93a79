"""The loop: reads top to bottom. Pretraining, SFT and reward training differ in loader and objective only."""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import jax
from jax.sharding import Mesh

from tigerjax import config as config_lib
from tigerjax import manifest
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.mesh import make_mesh
from tigerjax.train.checkpoint import Checkpointer, damaged, load_model, make_meta
from tigerjax.train.feed import Fed, Feed
from tigerjax.train.metrics import Metrics, mfu, model_flops
from tigerjax.train.objective import Objective, token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import TrainState, abstract_state, from_disk, init_state, state_from_weights, to_disk
from tigerjax.train.step import compile_step

MAX_SKIPPED = 3  # consecutive updates without a finite loss and gradient; the next one stops the run


def run_mesh(config: RunConfig) -> Mesh:
    """The config's mesh; one device of several when every degree is 1."""
    degrees = config.mesh
    alone = degrees.data * degrees.stage * degrees.fsdp * degrees.tensor == 1
    return make_mesh(degrees, jax.devices()[:1] if alone else None)


def train(
    config: RunConfig,
    loader: Any,
    *,
    run_dir: str | Path,
    objective: Objective | None = None,
    mesh: Mesh | None = None,
    init_weights: Any = None,
    resume: Literal["auto", "never"] = "auto",
    tokenizer_sha256: str | None = None,
    extra: dict[str, Any] | None = None,
    progress: bool | None = None,
    echo: Callable[[str], None] | None = None,
) -> TrainState:
    """Trains to `optim.total_steps` and returns the final state, as on disk; its checkpoint is there by then.

    `loader` gives batches (pytrees of numpy arrays, leading axis rows) by next() and has state(), restore() and,
    optionally, seen(). `objective` None is the token loss. Start weights: those of the newest checkpoint in `run_dir`
    (resume="auto"), else `init_weights`, else `checkpoint.init_from`, else random. `tokenizer_sha256` and `extra` go
    into the checkpoint; None takes the loader's attribute of that name. Writes config.txt, metrics.jsonl,
    tensorboard/ and checkpoints/ under `run_dir`. SIGINT and SIGTERM save a checkpoint, then raise KeyboardInterrupt
    or SystemExit(143). Raises ConfigError for a checkpoint of another model, tokenizer or data seed, and DataError
    after MAX_SKIPPED + 1 consecutive updates that are not finite.
    """
    # Mesh, objective, optimiser
    run_dir, total_steps = Path(run_dir), config.optim.total_steps
    mesh = run_mesh(config) if mesh is None else mesh
    objective = token_objective(config, mesh) if objective is None else objective
    tx = make_optimizer(config.optim)
    if tokenizer_sha256 is None:
        tokenizer_sha256 = getattr(loader, "tokenizer_sha256", None)

    # State: resumed, given, or new
    checkpoints = Checkpointer(run_dir, keep=config.checkpoint.keep)
    meta = make_meta(
        kind=objective.kind,
        model=config.model,
        tokenizer_sha256=tokenizer_sha256,
        config=config_lib.dump(config),
        data_seed=config.seed,
        extra=extra,
    )
    state, start = _start(config, loader, checkpoints, meta, objective, mesh, tx, init_weights, resume)
    if start >= total_steps:
        checkpoints.close()
        print(f"{config.name}: all {total_steps} steps are done, nothing to train", file=sys.stderr, flush=True)
        return to_disk(state, objective)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "config.txt").write_text("\n".join(meta["config"]) + "\n", encoding="utf-8")

    # Loop
    step = compile_step(objective, tx, config.optim, mesh)
    row_tokens = config.batch_rows // jax.process_count() * config.data.seq_len
    feed = Feed(loader, mesh, tokens=objective.tokens or (lambda _: row_tokens), batches=total_steps - start)
    metrics = Metrics(
        run_dir, name=config.name, start_step=start, total_steps=total_steps, progress=progress, echo=echo
    )
    watch = _Watch(config, run_dir, checkpoints, metrics, mesh)
    fed: Fed | None = None
    saved = start
    try:
        with _signals() as received:
            for i in range(start, total_steps):
                waited = time.perf_counter()
                fed_next = feed.get(lambda: bool(received))
                if fed_next is None:
                    break
                fed = fed_next
                watch.waiting += time.perf_counter() - waited
                state, values = step(state, fed.batch)
                watch.read()  # the step before this one: the device already has its next work
                watch.started(i + 1, values, fed)
                metrics.advance(i + 1)
                if (i + 1) % config.checkpoint.every_steps == 0 or i + 1 == total_steps:
                    watch.read()
                    checkpoints.save(i + 1, to_disk(state, objective), meta | {"loader": fed.after})
                    saved = i + 1
                if received:
                    break
            watch.read()
            at = int(state.step)
            if received and fed is not None and at != saved:
                checkpoints.save(at, to_disk(state, objective), meta | {"loader": fed.after})
            checkpoints.wait()
    finally:
        feed.close()
        metrics.close()
        checkpoints.close()
    if received:
        name = signal.Signals(received[0]).name
        kept = "checkpoint saved; resume to go on" if at else "before there was anything to save"
        print(f"{name}: stopped after step {at}/{total_steps}, {kept}", file=sys.stderr)
        if received[0] == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + received[0])
    return to_disk(state, objective)


def _start(
    config: RunConfig,
    loader: Any,
    checkpoints: Checkpointer,
    meta: dict[str, Any],
    objective: Objective,
    mesh: Mesh,
    tx: Any,
    init_weights: Any,
    resume: str,
) -> tuple[TrainState, int]:
    """The state to start from and its step; the loader is put where that step left it."""
    newest = checkpoints.newest()
    if newest is not None and resume == "never":
        raise ConfigError(
            f"{checkpoints.folder} has a checkpoint of step {newest[0]}, and resume is off; give another run folder"
        )
    if newest is not None:
        _check_same(newest[1], meta, checkpoints.folder / str(newest[0]))
        restored = checkpoints.restore(abstract_state(objective, tx, mesh))
        if restored is not None:
            state, found = restored
            loader.restore(found["loader"])
            print(f"resuming {config.name} from step {found['step']}", file=sys.stderr, flush=True)
            return from_disk(state, objective), found["step"]
    if lost := damaged(checkpoints.folder):
        raise DataError(
            f"{checkpoints.folder} has no whole checkpoint left ({', '.join(lost)}), and starting over would lose the"
            " run's records; restore one from a copy, remove the folder to start over, or give another run folder"
        )
    if init_weights is None and config.checkpoint.init_from is not None:
        model = load_model(config.checkpoint.init_from)
        given = make_meta(kind=model.kind, model=model.config, tokenizer_sha256=model.tokenizer_sha256)
        _check_same(given | {"data_seed": config.seed}, meta, Path(config.checkpoint.init_from))
        init_weights = model.weights
    if init_weights is not None:
        return state_from_weights(objective, tx, mesh, init_weights), 0
    return init_state(objective, tx, mesh, seed=config.seed), 0


def _check_same(found: dict[str, Any], wanted: dict[str, Any], path: Path) -> None:
    """Refuses another model, tokenizer, kind or data seed; says which other settings changed."""
    differs = [
        f"model.{name} is {found['model'].get(name)!r} there and {value!r} in the config"
        for name, value in wanted["model"].items()
        if found["model"].get(name) != value
    ]
    for name in ("kind", "tokenizer_sha256", "data_seed"):
        both_known = found[name] is not None and wanted[name] is not None
        if both_known and found[name] != wanted[name]:
            differs.append(f"{name} is {found[name]!r} there and {wanted[name]!r} here")
    if differs:
        raise ConfigError(f"checkpoint {path} does not belong to this run: {'; '.join(differs)}")
    before, now = set(found["config"]), set(wanted["config"])
    if before and before != now:
        changed = "; ".join(sorted(now - before))
        print(f"resuming with other settings than the checkpoint's, so not bit-exactly: {changed}", file=sys.stderr)


class _Watch:
    """Reads the metrics of a step after the next one is under way, logs them, and counts skipped updates."""

    def __init__(self, config: RunConfig, run_dir: Path, checkpoints: Checkpointer, metrics: Metrics, mesh: Mesh):
        self.config, self.run_dir, self.checkpoints, self.metrics, self.mesh = (
            config,
            run_dir,
            checkpoints,
            metrics,
            mesh,
        )
        self.waiting = 0.0
        self._late: tuple[int, Any, Fed] | None = None
        self._bad: list[dict[str, Any]] = []
        self._since, self._steps, self._tokens = time.perf_counter(), 0, 0

    def started(self, step: int, values: Any, fed: Fed) -> None:
        self._late = (step, values, fed._replace(batch=None))

    def read(self) -> None:
        """Waits for the step that was started last, if it was not read yet."""
        if self._late is None:
            return
        (step, values, fed), self._late = self._late, None
        values = jax.device_get(values)
        self._steps, self._tokens = self._steps + 1, self._tokens + fed.tokens * jax.process_count()
        if values["skipped"]:
            self._skipped(step, values, fed)
        else:
            self._bad = []
        c = self.config
        if step % c.log_every_steps == 0 or step == c.optim.total_steps:
            self._log(step, values, fed)

    def _log(self, step: int, values: Any, fed: Fed) -> None:
        now = time.perf_counter()
        seconds = max(now - self._since, 1e-9)
        rate = self._tokens / seconds
        flops = model_flops(self.config.model, tokens=rate, seq_len=self.config.data.seq_len)
        device = self.mesh.devices.flat[0]
        record: dict[str, Any] = {"step": step}
        record |= {name: float(value) for name, value in values.items() if name != "skipped"}
        record |= {
            "tokens_per_s": rate,
            "mfu": mfu(flops, device.device_kind, self.mesh.size),
            "data_wait_share": self.waiting / seconds,
            "step_s": seconds / self._steps,
            "shares": None if fed.seen is None else {name: s["share"] for name, s in fed.seen.items()},
        }
        self.metrics.write(record)
        self._since, self._steps, self._tokens, self.waiting = now, 0, 0, 0.0

    def _skipped(self, step: int, values: Any, fed: Fed) -> None:
        what = f"loss {float(values['loss_nats'])} and gradient norm {float(values['grad_norm'])}"
        self._bad.append({"step": step, "loader": fed.before})
        print(f"step {step}: {what}: not finite, update skipped", file=sys.stderr, flush=True)
        if len(self._bad) <= MAX_SKIPPED:
            return
        path = self.run_dir / "bad_batches.json"
        manifest.write_json(path, self._bad)
        good = self.checkpoints.newest()
        last = "none was saved" if good is None else str(self.checkpoints.folder / str(good[0]))
        raise DataError(
            f"step {step}: {what}; {len(self._bad)} updates in a row were not finite. Their batches (loader states"
            f" {json.dumps([bad['loader'] for bad in self._bad])[:300]}) are in {path}; last good checkpoint: {last};"
            " look at these rows, or lower optim.peak_lr, then resume"
        )


@contextmanager
def _signals() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted, once, in the list; a second one acts as it always did."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    try:
        for number in (int(signal.SIGINT), int(signal.SIGTERM)):
            before[number] = signal.getsignal(number)
            signal.signal(number, note)
    except ValueError:  # not the main thread: signals are the caller's
        before.clear()
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
