"""Goes on from the fastest config of a search, one thing at a time, with the compiler.

blocks   those of the splash kernels. The kernels are compiled alone with a few sizes, and the best of each kernel make
         the blocks with which the whole step is compiled: peak memory counts too
chunks   tokens of which the loss has logits at one time: a few sizes around that of the config
VMEM     that one kernel may use, a libtpu flag: a few shares of what a core has
gathers  over two axes of the torus by the SparseCores, a libtpu flag, where they gather at all: the other of on and off

What gives the whole step a higher bound, and fits, is taken, and the next thing starts from there. What the compiler
refuses is a result. Each thing is tried once, in this order: what is cheap to compile comes first.
"""

import dataclasses
import itertools
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tigerjax.config import RunConfig, SplashConfig
from tigerjax.errors import ConfigError
from tigerjax.plan import kernels
from tigerjax.plan.kernels import KernelCall
from tigerjax.plan.trials import GIVEN_UP_AFTER_S, Result, Trial, Trials, digest

BLOCKS = (
    (1024, 1024, 1024),
    (1024, 2048, 1024),
    (2048, 4096, 1024),
    (2048, 2048, 1024),
    (1024, 1024, 512),
    (1024, 2048, 512),
    (2048, 2048, 2048),
    (2048, 1024, 512),
    (512, 1024, 512),
    (512, 512, 512),
)
"""Queries, keys in VMEM, keys multiplied at one time [our choice], in the order in which they are compiled. Those that
do not divide the row are left out."""
KERNELS_SHARE = 0.5
"""The part of the time that is left which kernels alone may take [our choice]: whole steps need the rest."""
SURE_BLOCK, LARGEST_SHARE = 2048, 4
"""More keys than the first only where a row has this many blocks of them: the mask leaves out much of a large block."""
CHUNKS = (0.25, 0.5, 2.0, 4.0)
"""Of the config's chunk of the loss [our choice]."""
VMEM, VMEM_SHARES = "xla_tpu_scoped_vmem_limit_kib", (0.25, 0.5, 0.75, 0.9375)
"""The flag, and the shares of a core's VMEM that are tried [our choice]. With all of it nothing is left for the rest of
the program."""
GATHERS = "xla_tpu_enable_sparse_core_collective_offload_all_gather"
PLANE_GATHERS = "xla_tpu_enable_sparse_core_collective_offload_2d_all_gather"
FIELDS = {
    "fwd": ("block_q", "block_kv", "block_kv_compute"),
    "dkv": ("block_q_dkv", "block_kv_dkv", "block_kv_dkv_compute"),
    "dq": ("block_q_dq", "block_kv_dq"),
}
"""The blocks of each kernel."""


class Attempt(NamedTuple):
    """One whole step that was compiled."""

    what: str
    choice: str
    result: Result
    before: Result
    """The best until then."""

    @property
    def taken(self) -> bool:
        return self.result.rate > self.before.rate

    @property
    def gain_s(self) -> float | None:
        """Seconds of a step that it gains over the best until then; None where it has no time."""
        after = self.result.figures.get("step_s")
        return None if after is None else self.before.figures["step_s"] - after


@dataclasses.dataclass(frozen=True, kw_only=True)
class Refinement:
    """What goes on from `best`, until the time is over."""

    trials: Trials
    best: Result
    """It fits."""
    until: float
    """By time.monotonic(): nothing is begun after it."""
    echo: Callable[[str], None]
    on_step: Callable[[Attempt], None] = lambda step: None
    time_kernels: Callable[..., dict[KernelCall, float]] = kernels.seconds

    def steps(self) -> list[Attempt]:
        """Every step that was compiled, in order. The last that was taken is the best, or else `best`."""
        steps: list[Attempt] = []
        best = self.best
        for what, choices in (
            ("kernel blocks", self.blocks),
            ("loss chunk", self.chunks),
            ("scoped VMEM", self.vmem),
            ("2D gathers", self.gathers),
        ):
            for choice, trial in choices(best):
                if (figures := self.trials.figures(trial, self.until)) is None:
                    self.echo(f"the time is spent before {what} {choice}; the same command resumes")
                    return steps
                steps.append(Attempt(what, choice, Result(trial, figures), best))
                self.on_step(steps[-1])
                if steps[-1].taken:
                    best = steps[-1].result
                    if what == "kernel blocks":
                        break  # the others have slower kernels
        return steps

    def blocks(self, start: Result) -> Iterator[tuple[str, Trial]]:
        """Blocks whose kernels are faster than those of `start`: with one backward kernel and with two, the faster
        first."""
        calls = start.figures.get("splash_calls")
        if not calls:
            return
        config = start.candidate.config
        had = config.compute.splash
        now = _by_phase({_call(row): row["seconds"] for row in calls}, _runs(calls, had.fused_backward))
        # Seconds of a step and sizes, by kernel; the backward kernel of k and v by whether it is that of q too.
        timed: dict[tuple[str, bool], list[tuple[float, SplashConfig]]] = {}
        for c, seconds in itertools.chain([(had, now)], self._timed_blocks(start)):
            for phase, took in seconds.items():
                timed.setdefault((phase, c.fused_backward and phase != "fwd"), []).append((took, c))
        best = {kernel: min(took, key=lambda pair: pair[0]) for kernel, took in timed.items()}
        ways = []
        for fused in (False, True):
            used = {phase: best.get((phase, fused and phase != "fwd")) for phase in _phases(fused)}
            if all(used.values()):
                sizes: dict[str, Any] = {
                    name: getattr(pair[1], name) for phase, pair in used.items() if pair for name in FIELDS[phase]
                }
                total = sum(pair[0] for pair in used.values() if pair)
                ways.append((total, dataclasses.replace(had, fused_backward=fused, **sizes)))
        for total, c in sorted(ways, key=lambda way: way[0]):
            if total < sum(now.values()):
                yield _named(c), start.candidate._replace(config=_with(config, splash=c))

    def _timed_blocks(self, start: Result) -> Iterator[tuple[SplashConfig, dict[str, float]]]:
        """Blocks that the config allows and the compiler accepts, with the seconds of a step of each kernel."""
        config, options = start.candidate.config, self.trials.options(start.candidate)
        had, length, window = config.compute.splash, config.data.seq_len, config.model.extras.window
        until = self.until - (1 - KERNELS_SHARE) * max(0.0, self.until - time.monotonic())
        for (q, kv, compute), fused in itertools.product(BLOCKS, (True, False)):
            sizes: dict[str, Any] = {"fused_backward": fused}
            for phase in _phases(fused):
                sizes |= zip(FIELDS[phase], (q, kv, compute), strict=False)
            try:
                c = dataclasses.replace(had, **sizes)
                _with(config, splash=c)
            except ConfigError:
                continue
            if c == had or kv > max(SURE_BLOCK, length // LARGEST_SHARE):
                continue
            runs = _runs(start.figures["splash_calls"], fused)
            found = self._timed(c, runs, window, options, until)
            if found is None:
                self.echo(f"  the time of kernels alone is spent before {_named(c)}; the same command resumes")
                return
            if "error" in found:
                self.echo(f"  kernels {_named(c)}: refused: {found['error'][:90]}")
                continue
            seconds = _by_phase(dict(zip(sorted(runs), found["seconds"], strict=True)), runs)
            self.echo(f"  kernels {_named(c)}: " + ", ".join(f"{phase} {s:.3g} s" for phase, s in seconds.items()))
            yield c, seconds

    def _timed(
        self, c: SplashConfig, runs: dict[KernelCall, int], window: int | None, options: dict[str, str], until: float
    ) -> dict[str, Any] | None:
        """{seconds} of one call of each of the sorted kernels, or {error}; None where the time is spent."""
        chip, limit_s = self.trials.topology.chip, self.trials.limit_s

        def make() -> dict[str, Any]:
            try:
                found = self.time_kernels(set(runs), chip, c, window, options, limit_s)
            except ConfigError as error:
                return {"error": str(error)}
            except subprocess.TimeoutExpired:
                return {"error": f"not compiled within {limit_s:.0f} s", GIVEN_UP_AFTER_S: limit_s}
            return {"seconds": [found[call] for call in sorted(runs)]}

        parts = ["kernels", chip.name, str(sorted(runs)), str(c), str(window), str(sorted(options.items()))]
        return self.trials.kept(digest(parts), until, make)

    def chunks(self, start: Result) -> Iterator[tuple[str, Trial]]:
        """Other chunks of the loss, where they cut a micro-batch into another number of pieces."""
        config = start.candidate.config
        tokens = config.global_batch_size // config.optim.gradient_accumulation_steps * config.data.seq_len
        now = min(config.compute.loss_chunk_tokens, tokens)
        tried = {-(-tokens // now)}
        for times in CHUNKS:
            chunk = min(max(1, int(times * now)), tokens)
            if (pieces := -(-tokens // chunk)) not in tried:
                tried.add(pieces)
                other = _with(config, loss_chunk_tokens=chunk)
                yield f"{chunk:,} tokens", start.candidate._replace(config=other)

    def vmem(self, start: Result) -> Iterator[tuple[str, Trial]]:
        """Other limits of the VMEM that one kernel may use."""
        options = self.trials.options(start.candidate)
        for share in VMEM_SHARES:
            kib = int(share * self.trials.topology.chip.vmem_bytes) // 1024
            if str(kib) != options.get(VMEM):
                yield f"{kib / 1024:g} MiB", _flagged(start.candidate, VMEM, str(kib))

    def gathers(self, start: Result) -> Iterator[tuple[str, Trial]]:
        """Gathers over two axes of the torus on the SparseCores, or not."""
        options = self.trials.options(start.candidate)
        if options.get(GATHERS) == "true":
            on = options.get(PLANE_GATHERS) == "true"
            other = _flagged(start.candidate, PLANE_GATHERS, "false" if on else "true")
            yield "off" if on else "on", other


def _with(config: RunConfig, **changes: Any) -> RunConfig:
    """The config with other fields of `compute`. ConfigError where they do not go with the rest."""
    return dataclasses.replace(config, compute=dataclasses.replace(config.compute, **changes))


def _flagged(trial: Trial, name: str, value: str) -> Trial:
    return trial._replace(flags=tuple((dict(trial.flags) | {name: value}).items()))


def _phases(fused: bool) -> tuple[str, ...]:
    return ("fwd", "dkv") if fused else ("fwd", "dkv", "dq")


def _call(row: dict[str, Any]) -> KernelCall:
    return KernelCall(*(row[name] for name in KernelCall._fields))


def _runs(rows: list[dict[str, Any]], fused: bool) -> dict[KernelCall, int]:
    """How often each kernel runs in a step, when one does the whole backward pass (`fused`) or when two do."""
    runs = {_call(row): row["runs"] for row in rows if row["phase"] != "dq"}
    if fused:
        return runs
    return runs | {call._replace(phase="dq"): n for call, n in runs.items() if call.phase == "dkv"}


def _by_phase(seconds: dict[KernelCall, float], runs: dict[KernelCall, int]) -> dict[str, float]:
    """Seconds of a step, by kernel, of the seconds of one call."""
    return {
        phase: sum(s * runs[call] for call, s in seconds.items() if call.phase == phase)
        for phase in ("fwd", "dkv", "dq")
        if any(call.phase == phase for call in seconds)
    }


def _named(c: SplashConfig) -> str:
    """The blocks of each kernel as queries x keys (keys at one time)."""
    forward = f"{c.block_q} x {c.block_kv} ({c.block_kv_compute})"
    backward = f"{c.block_q_dkv} x {c.block_kv_dkv} ({c.block_kv_dkv_compute})"
    if not c.fused_backward:
        backward += f" and {c.block_q_dq} x {c.block_kv_dq}"
    return f"forward {forward}, {'fused ' if c.fused_backward else ''}backward {backward}"
