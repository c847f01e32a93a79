"""Chooses mesh, remat policy and batch split for a config on a slice: arithmetic first, then the compiler.

enumerate   meshes x remat policies x rows per device (by gradient accumulation) x pipeline microbatches and rounds;
            the global batch stays that of the config
prune       what the config's own validation refuses, and what cannot fit: state + saved activations > memory
order       by a rough time from peak, bubble and traffic alone, best first
compile     each candidate (trials.py). A result implies others, which are not compiled: what does not fit rules out the
            same mesh with more rows or a policy that saves as much; what fits rules out policies that compute more
            again

What is not searched here, refine.py searches for the fastest alone.
"""

import dataclasses
import itertools
import math
import time
import typing
from collections.abc import Callable, Iterator, Sequence

from tigerjax.config import MeshConfig, OptimConfig, PipelineConfig, Remat, RunConfig
from tigerjax.errors import ConfigError
from tigerjax.model import families, stack
from tigerjax.model.numbers import adapter_weights, matrices
from tigerjax.model.selection import flops, selected
from tigerjax.model.weights import MATRIX_PATHS
from tigerjax.plan import flags
from tigerjax.plan.topology import Topology
from tigerjax.plan.trials import Result, Trial, Trials

MAX_TENSOR = 8
"""With a larger degree, sending a layer's activations takes longer than computing them, on every chip here."""
SEARCHED: tuple[Remat, ...] = tuple(name for name in typing.get_args(Remat) if name != "none")
"""Without "none": save_dots keeps every product already, and "none" adds only what costs nothing to compute again."""
LEAST_SHARE = 4096
"""Tokens of a row's share on one device [our choice]: a row that is no longer is not cut along T."""
MAX_ROWS = 16
"""Of a micro-batch on one device. Longer rows serve better than more of them."""
ROUNDS = (1, 2, 4, 5)
MICROBATCHES_PER_STAGE = (1, 2, 4)
NOT_HIDDEN = 0.1
"""The order assumes that this share of what could overlap does not."""
SIZES = {"float32": 4, "bfloat16": 2}
FROZEN_BYTES = {"float32": 4.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}
"""Of a frozen weight of a matrix of the layers. Embedding and head are held in at least 2."""


def enumerate_candidates(base: RunConfig, topology: Topology) -> tuple[list[Trial], dict[str, int]]:
    """The candidates, most promising first, and how many were left out for which reason."""
    out: list[Trial] = []
    left_out = {"refused by the config": 0, "cannot fit": 0}
    for mesh, pipeline, remat in _grid(base, topology):
        batch_ways = mesh.data * mesh.stage * mesh.fsdp
        for rows in range(1, MAX_ROWS + 1):
            if base.global_batch_size % (rows * batch_ways):
                continue
            try:
                config = dataclasses.replace(
                    base,
                    mesh=mesh,
                    pipeline=pipeline,
                    compute=dataclasses.replace(base.compute, remat=remat),
                    optim=dataclasses.replace(
                        base.optim, gradient_accumulation_steps=base.global_batch_size // (rows * batch_ways)
                    ),
                )
            except ConfigError:
                left_out["refused by the config"] += 1
                continue
            memory = least_memory(config)
            if memory > topology.chip.hbm_bytes:
                left_out["cannot fit"] += 1
                continue
            out.append(Trial(config, rows, memory, least_seconds(config, topology)))
    return sorted(out, key=lambda c: (c.seconds, run_again(c.config), c.memory)), left_out


def _grid(base: RunConfig, topology: Topology) -> Iterator[tuple[MeshConfig, PipelineConfig, Remat]]:
    per_slice = topology.devices // topology.slices
    offload = topology.chip.host_bandwidth is not None
    policies = [remat for remat in SEARCHED if offload or remat not in stack.OFFLOADED]
    for stage, sequence, tensor in itertools.product(_divisors(per_slice), repeat=3):
        fsdp, left = divmod(per_slice, stage * sequence * tensor)
        if left or base.model.num_layers % stage or tensor > MAX_TENSOR:
            continue
        if sequence > 1 and base.data.seq_len // sequence < LEAST_SHARE:
            continue
        mesh = MeshConfig(data=topology.slices, stage=stage, fsdp=fsdp, sequence=sequence, tensor=tensor)
        for remat in policies:
            if stage == 1:
                yield mesh, PipelineConfig(), remat
                continue
            for times in MICROBATCHES_PER_STAGE:
                for rounds in ROUNDS:
                    yield mesh, PipelineConfig(microbatches=times * stage, rounds=rounds), remat


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def least_memory(c: RunConfig) -> float:
    """Bytes that one device holds when the forward pass ends: state, and what the policy saves of each layer."""
    m, model = c.mesh, c.model
    # float32 weight, what the optimiser keeps of it, and float32 sums of the gradient over micro-batches
    trained = 4 + least_moments(c.optim) + (4 if c.optim.gradient_accumulation_steps > 1 else 0)
    layers, ends = _state_bytes(c, trained)
    held = (layers * model.num_layers / m.stage + ends) / (m.fsdp * m.sequence * m.tensor)
    rows = c.global_batch_size // c.optim.gradient_accumulation_steps / (m.data * m.fsdp)
    tokens = rows * c.data.seq_len / m.sequence
    saved = tokens * model.num_layers / m.stage * kept_per_token(c, on_device(c)) / m.tensor
    return held + saved


def _state_bytes(c: RunConfig, trained: float) -> tuple[float, float]:
    """Bytes that the state has of the matrices of a layer, and of embedding and head, over all devices: `trained` for
    each weight that is trained, and those of its type for a frozen one."""
    model, family = c.model, families.of(c.model)
    selection = selected(c.weights, c.lora, model)
    if selection is None:
        return trained * family.layer_weights(model), trained * family.end_weights(model)
    frozen = FROZEN_BYTES[c.weights.frozen_dtype]
    layers = sum(
        weights * (trained if MATRIX_PATHS[name] in selection.first else frozen)
        for name, weights in matrices(model).items()
    )
    if c.lora.rank:
        layers += trained * adapter_weights(model, c.lora.targets, c.lora.rank)
    ends = 0.0
    for name in ("embed",) if model.tied else ("embed", "head"):
        first = selection.first.get(name, model.padded_vocab_size)
        ends += model.model_dim * (trained * (model.padded_vocab_size - first) + max(frozen, 2.0) * first)
    return layers, ends


def least_moments(c: OptimConfig) -> int:
    """Bytes that the optimiser keeps of each weight, where it keeps least: of the matrices of layers, and without the
    scales of 8-bit means. `benchmarks/tpu/optimizer_memory.py` has the exact figures."""
    first = SIZES[c.first_moment_dtype]
    kept = {"adamw": first + 4, "adamw_8bit": 2, "muon": first, "adafactor": first if c.beta1 else 0}
    return kept[c.kind] + (0 if c.ema_decay is None else 4)


def kept_per_token(c: RunConfig, names: Sequence[str]) -> float:
    """Bytes of one token and layer that these checkpoint_names of model/stack.py hold."""
    features = families.of(c.model).saved_features(c.model)
    return SIZES[c.compute.dtype] * sum(features.get(name, 0) for name in names)


def on_device(c: RunConfig) -> tuple[str, ...]:
    """The checkpoint_names that the remat policy keeps in device memory; the block's input too, if not offloaded."""
    if c.compute.remat == "none":
        return (stack.BLOCK_IN, *stack.SAVED["save_dots"])
    offloaded = stack.OFFLOADED.get(c.compute.remat, ())
    return tuple(name for name in (stack.BLOCK_IN, *stack.SAVED[c.compute.remat]) if name not in offloaded)


def least_seconds(c: RunConfig, topology: Topology) -> float:
    """A rough time of a step: products at peak, recomputation, bubble, and the traffic that these do not hide. Only the
    order of the candidates uses it; no figure of a plan comes from here."""
    chip, m, model, family = topology.chip, c.mesh, c.model, families.of(c.model)
    layer_weights = family.layer_weights(model)
    tokens = c.global_batch_size * c.data.seq_len
    count = flops(selected(c.weights, c.lora, model), model, tokens=tokens, seq_len=c.data.seq_len)
    compute = count / topology.devices / chip.device_flops
    again = run_again(c) / layer_weights
    compute *= 1 + again / 3
    if m.stage > 1:
        ticks = c.pipeline.rounds * c.pipeline.microbatches
        compute *= (ticks + m.stage - 1) / ticks
    # Weights gathered for forward and backward, gradients scattered: 2 bytes each, once a micro-batch.
    ways = m.fsdp * m.sequence
    gathered = 6 * layer_weights * model.num_layers / (m.stage * m.tensor) * (ways - 1) / ways
    gathered *= c.optim.gradient_accumulation_steps
    # Activations gathered and scattered twice a layer and pass (sequence parallelism): forward, backward, again.
    of_rows = tokens / (m.data * m.fsdp) * model.num_layers / m.stage
    share = of_rows / m.sequence
    moved = share * model.model_dim * 2 * 4 * (3 if again else 2) * (m.tensor - 1) / m.tensor
    # Keys and values of whole rows, gathered for forward and backward, and their gradients scattered.
    moved_keys = 3 * of_rows * kept_per_token(c, (stack.KEY, stack.VALUE)) / m.tensor * (m.sequence - 1) / m.sequence
    offloaded = 2 * share / m.tensor * kept_per_token(c, stack.OFFLOADED.get(c.compute.remat, ()))
    ring = 2 * chip.link_bandwidth / chip.devices
    side_by_side = (
        compute,
        gathered / (ring * chip.devices * len(topology.shape)),  # enters a chip once for all its devices
        moved_keys / ring,
        offloaded / (chip.host_bandwidth or math.inf),
    )
    return max(side_by_side) + NOT_HIDDEN * (sum(side_by_side) - max(side_by_side)) + moved / ring


def run_again(c: RunConfig) -> int:
    """How many parameters of a layer have products that the backward pass computes a second time. Attention itself
    counts as the parameters that would cost as much."""
    saved = (*on_device(c), *stack.OFFLOADED.get(c.compute.remat, ()))
    again = families.of(c.model).recomputed_weights(c.model, seq_len=c.data.seq_len)
    return sum(weights for name, weights in again.items() if name not in saved)


def implied(candidate: Trial, results: Sequence[Result]) -> str | None:
    """The reason why a candidate need not be compiled after these results; None when it must be."""
    mine = candidate.config
    saved = kept_per_token(mine, on_device(mine))
    for (theirs, rows, *_), figures in results:
        if (theirs.mesh, theirs.pipeline) != (mine.mesh, mine.pipeline):
            continue
        if figures.get("fits") is False and candidate.rows >= rows:
            if saved >= kept_per_token(theirs, on_device(theirs)):
                return "needs more memory than what did not fit"
        if figures.get("fits") and candidate.rows == rows and theirs.compute.remat not in stack.OFFLOADED:
            if run_again(mine) >= run_again(theirs):
                return "computes more again than another that fits"
    return None


def search(
    trials: Trials,
    *,
    budget_s: float,
    echo: Callable[[str], None],
    on_result: Callable[[Result], None] = lambda result: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Result]:
    """Compiles candidates until none is left or the budget is spent, and returns the results, fastest first.

    ConfigError where libtpu refuses a flag: all candidates of a search have the same ones.
    """
    trials.work.mkdir(parents=True, exist_ok=True)
    candidates, left_out = enumerate_candidates(trials.base, trials.topology)
    reasons = ", ".join(f"{n} {why}" for why, n in left_out.items())
    echo(f"{len(candidates)} candidates; {reasons}; results are kept in {trials.work}")
    results: list[Result] = []
    until = time.monotonic() + budget_s
    for place, candidate in enumerate(candidates):
        on_progress(place, len(candidates))
        if implied(candidate, results):
            continue
        figures = trials.figures(candidate, until)
        if figures is None:
            echo(f"the time for them is spent after {place} of {len(candidates)} candidates; the same command resumes")
            break
        if flags.REFUSED in (error := figures.get("error", "")):
            raise ConfigError(error.removeprefix("tigerjax: "))
        results.append(Result(candidate, figures))
        on_result(results[-1])
    on_progress(len(candidates), len(candidates))
    return sorted(results, key=lambda r: -r.rate)
