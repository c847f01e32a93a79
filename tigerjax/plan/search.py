"""Choosing mesh, remat and batch split for a config on a slice: arithmetic first, then the compiler.

enumerate   meshes x remat policies x rows a chip (by optim.accumulate) x pipeline microbatches and rounds;
            the global batch stays the config's
prune       what the config's own validation refuses, and what cannot fit: state + saved activations > HBM
order       by a time estimate from peak, bubble and traffic alone, best first
compile     each in its own process, which gives its memory back; its plan is kept as a JSON file, so that a
            search that was stopped goes on; what is implied by a result is not compiled:
            out of memory rules out the same mesh and rows with a policy that saves as much or more, or with
            more rows; a fit rules out policies that save less
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import subprocess
import tempfile
import time
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tigerjax
from tigerjax import config as config_lib
from tigerjax.config import MeshConfig, PipelineConfig, Remat, RunConfig
from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.model import families, stack
from tigerjax.plan import flags
from tigerjax.plan.topology import Topology

MAX_TENSOR = 8
"""Past it a layer's activations travel more than they compute, on every chip here."""
SEARCHED: tuple[Remat, ...] = tuple(name for name in typing.get_args(Remat) if name != "none")
"""save_dots keeps every product; "none" keeps also what costs nothing to compute again."""
MAX_ROWS = 16
"""Rows of a micro-batch on one chip; one that needs more is better served by a longer row."""
ROUNDS = (1, 2, 4, 5)
MICROBATCHES_PER_STAGE = (1, 2, 4)
NOT_HIDDEN = 0.1
"""Share of what could run side by side that the order assumes does not."""
SIZES = {"float32": 4, "bfloat16": 2}
SOURCES = ("config", "mesh.py", "model", "train", "plan")
"""What, under tigerjax/, a result depends on."""


class Candidate(NamedTuple):
    """One config to compile."""

    config: RunConfig
    rows: int
    """Rows of a micro-batch for each chip that holds different ones (data x stage x fsdp)."""
    memory: float
    """Bytes that it needs at least: state and saved activations."""
    seconds: float
    """Of a step, from first principles; for the order alone."""

    @property
    def mesh(self) -> tuple[int, ...]:
        m = self.config.mesh
        return (m.data, m.stage, m.fsdp, m.tensor)

    def overrides(self, base: RunConfig) -> list[str]:
        """The words that make `base` this config on the command line."""
        had, want = (dict(line.split(" = ", 1) for line in config_lib.dump(c)) for c in (base, self.config))
        changed = sorted(k for k in want if want[k] != had[k])
        return [word for k in changed for word in (f"--{k.replace('_', '-')}", want[k].strip("'"))]


class Result(NamedTuple):
    candidate: Candidate
    figures: dict[str, Any]

    @property
    def rate(self) -> float:
        """Tokens a second and chip, an upper bound; 0 when the program does not fit or was refused."""
        return self.figures.get("tokens_per_s_per_chip", 0.0)


def enumerate_candidates(base: RunConfig, topology: Topology) -> tuple[list[Candidate], dict[str, int]]:
    """Candidates, most promising first, and how many were left out for what reason."""
    out: list[Candidate] = []
    left_out = {"refused by the config": 0, "cannot fit": 0}
    for mesh, pipeline, remat in _grid(base, topology):
        batch_ways = mesh.data * mesh.stage * mesh.fsdp
        for rows in range(1, MAX_ROWS + 1):
            if base.batch_rows % (rows * batch_ways):
                continue
            try:
                config = dataclasses.replace(
                    base,
                    mesh=mesh,
                    pipeline=pipeline,
                    compute=dataclasses.replace(base.compute, remat=remat),
                    optim=dataclasses.replace(base.optim, accumulate=base.batch_rows // (rows * batch_ways)),
                )
            except ConfigError:
                left_out["refused by the config"] += 1
                continue
            memory = least_memory(config)
            if memory > topology.chip.hbm_bytes:
                left_out["cannot fit"] += 1
                continue
            out.append(Candidate(config, rows, memory, least_seconds(config, topology)))
    return sorted(out, key=lambda c: (c.seconds, run_again(c.config), c.memory)), left_out


def _grid(base: RunConfig, topology: Topology) -> Iterator[tuple[MeshConfig, PipelineConfig, Remat]]:
    per_slice = topology.chips // topology.slices
    for stage in _divisors(math.gcd(per_slice, base.model.num_layers)):
        for tensor in _divisors(per_slice // stage):
            if tensor > MAX_TENSOR:
                continue
            mesh = MeshConfig(data=topology.slices, stage=stage, fsdp=per_slice // stage // tensor, tensor=tensor)
            for remat in SEARCHED:
                if stage == 1:
                    yield mesh, PipelineConfig(), remat
                    continue
                for times in MICROBATCHES_PER_STAGE:
                    for rounds in ROUNDS:
                        yield mesh, PipelineConfig(microbatches=times * stage, rounds=rounds), remat


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def least_memory(c: RunConfig) -> float:
    """Bytes of one chip that are alive when the forward pass ends: state, and what the policy saves of each layer."""
    m, model = c.mesh, c.model
    layers, ends = families.of(model).layer_weights(model), families.of(model).end_weights(model)
    held = layers * model.num_layers / (m.stage * m.fsdp * m.tensor) + ends / (m.fsdp * m.tensor)
    # float32 weight and second moment, the first moment, and float32 sums of the gradient over micro-batches
    bytes_a_weight = 8 + SIZES[c.optim.first_moment_dtype] + (4 if c.optim.accumulate > 1 else 0)
    rows = c.batch_rows // c.optim.accumulate / (m.data * m.fsdp)
    saved = rows * c.data.seq_len * model.num_layers / m.stage * kept_per_token(c, on_device(c)) / m.tensor
    return held * bytes_a_weight + saved


def kept_per_token(c: RunConfig, names: Sequence[str]) -> float:
    """Bytes of a token and a layer under these checkpoint_names of model/stack.py."""
    features = families.of(c.model).saved_features(c.model)
    return SIZES[c.compute.dtype] * sum(features.get(name, 0) for name in names)


def on_device(c: RunConfig) -> tuple[str, ...]:
    """What the remat policy keeps in the chip's memory, the block's input included unless that is offloaded."""
    if c.compute.remat == "none":
        return (stack.BLOCK_IN, *stack.SAVED["save_dots"])
    offloaded = stack.OFFLOADED.get(c.compute.remat, ())
    return tuple(name for name in (stack.BLOCK_IN, *stack.SAVED[c.compute.remat]) if name not in offloaded)


def least_seconds(c: RunConfig, topology: Topology) -> float:
    """A rough time of a step, for the order alone: products at peak, recomputation, bubble, and what of the traffic
    these do not hide. No figure of a plan comes from here."""
    chip, m, model, family = topology.chip, c.mesh, c.model, families.of(c.model)
    layer_weights = family.layer_weights(model)
    tokens = c.batch_rows * c.data.seq_len
    compute = family.model_flops(model, tokens=tokens, seq_len=c.data.seq_len) / topology.chips / chip.peak_flops
    again = run_again(c) / layer_weights
    compute *= 1 + again / 3
    if m.stage > 1:
        ticks = c.pipeline.rounds * c.pipeline.microbatches
        compute *= (ticks + m.stage - 1) / ticks
    # Weights gathered for forward and backward, gradients scattered: 2 bytes each, once a micro-batch.
    gathered = 6 * layer_weights * model.num_layers / (m.stage * m.tensor) * (m.fsdp - 1) / m.fsdp
    gathered *= c.optim.accumulate
    # Activations gathered and scattered twice a layer and pass (sequence parallelism): forward, backward, again.
    share = tokens / (m.data * m.fsdp) * model.num_layers / m.stage
    moved = share * model.model_dim * 2 * 4 * (3 if again else 2) * (m.tensor - 1) / m.tensor
    offloaded = 2 * share / m.tensor * kept_per_token(c, stack.OFFLOADED.get(c.compute.remat, ()))
    ring = 2 * chip.link_bandwidth
    side_by_side = (compute, gathered / (ring * len(topology.shape)), offloaded / chip.host_bandwidth)
    return max(side_by_side) + NOT_HIDDEN * (sum(side_by_side) - max(side_by_side)) + moved / ring


def run_again(c: RunConfig) -> int:
    """Weights of a layer whose products the backward pass computes a second time, with attention counted as the weights
    that would cost as much."""
    saved = (*on_device(c), *stack.OFFLOADED.get(c.compute.remat, ()))
    again = families.of(c.model).recomputed_weights(c.model, seq_len=c.data.seq_len)
    return sum(weights for name, weights in again.items() if name not in saved)


def implied(candidate: Candidate, results: Sequence[Result]) -> str | None:
    """Why a candidate need not be compiled, given what was; None when it must be."""
    mine = candidate.config
    saved = kept_per_token(mine, on_device(mine))
    for (theirs, rows, *_), figures in results:
        if (theirs.mesh, theirs.pipeline) != (mine.mesh, mine.pipeline):
            continue
        if figures.get("fits") is False and candidate.rows >= rows:
            if saved >= kept_per_token(theirs, on_device(theirs)):
                return "more than what did not fit"
        if figures.get("fits") and candidate.rows == rows and theirs.compute.remat not in stack.OFFLOADED:
            if run_again(mine) >= run_again(theirs):
                return "computes again what another that fits does not"
    return None


def key(config: RunConfig, topology: Topology) -> str:
    """Of a result: the config but for its name, the slice, the versions and the sources that it depends on."""
    root = Path(tigerjax.__file__).parent
    parts = [line for line in config_lib.dump(config) if not line.startswith("name = ")]
    parts += [topology.name, str(topology.slices), str(flags.of(topology))]
    parts += [f"{name} {importlib.metadata.version(name)}" for name in ("jax", "jaxlib", "libtpu", "flax", "optax")]
    for source in SOURCES:
        path = root / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            parts.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def search(
    base: RunConfig,
    topology: Topology,
    *,
    command: list[str],
    work: Path,
    budget_s: float,
    echo: Callable[[str], None],
    heard: Callable[[Result], None] = lambda result: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Compiles candidates until none is left or the budget is spent; results, fastest first.

    `command` is `tigerjax plan CONFIG` with its topology, as words; each candidate is that with overrides and
    `--json`. Results that an earlier search left in `work` cost nothing.
    """
    work.mkdir(parents=True, exist_ok=True)
    candidates, left_out = enumerate_candidates(base, topology)
    reasons = ", ".join(f"{n} {why}" for why, n in left_out.items())
    echo(f"{len(candidates)} candidates; {reasons}; results are kept in {work}")
    results: list[Result] = []
    deadline = time.monotonic() + budget_s
    for place, candidate in enumerate(candidates):
        progress(place, len(candidates))
        if implied(candidate, results):
            continue
        path = work / f"{key(candidate.config, topology)}.json"
        if not path.is_file():
            if time.monotonic() > deadline:
                echo(f"budget spent after {place} of {len(candidates)} candidates; the same command goes on")
                break
            manifest.write_json(path, _compile(command + candidate.overrides(base), max(60.0, 2 * budget_s)))
        figures = json.loads(path.read_text(encoding="utf-8"))
        results.append(Result(candidate, figures))
        heard(results[-1])
    progress(len(candidates), len(candidates))
    return sorted(results, key=lambda r: -r.rate)


def _compile(command: list[str], timeout_s: float) -> dict[str, Any]:
    """The figures of a candidate, or {fits: None, error} when it is refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        try:
            run = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return {"fits": None, "error": f"not compiled within {timeout_s:.0f} s"}
        if run.returncode == 0 and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    said = [text for text in run.stderr.strip().splitlines() if text.strip()]
    return {"fits": None, "error": said[-1] if said else f"exit code {run.returncode}"}
