"""The step that `train` runs, lowered and compiled for a described slice."""

import dataclasses
import functools
import math
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax.config import PpoConfig, PreferenceConfig, ReferencedConfig, RlConfig, RunConfig
from tigerjax.data.rows import Batch
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, make_mesh, sharding
from tigerjax.model import stack
from tigerjax.model.selection import flops
from tigerjax.plan import flags
from tigerjax.plan.topology import Topology, describe
from tigerjax.train import objective as objectives
from tigerjax.train.objective import Objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.policy_loss import PolicyBatch
from tigerjax.train.preference_loss import PreferenceBatch
from tigerjax.train.state import abstract_state
from tigerjax.train.step import jit_step

OPTIONS = {"xla_dump_hlo_as_text": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """The result of one compilation. Bytes are those of one device.

    Temporaries are what the peak holds beside the arguments. Where the program does not fit, they are what it would
    need, and the peak is their sum with the arguments."""

    options: dict[str, Any]
    """The libtpu flags that it was compiled with."""
    tokens: int
    flops: float
    """As in `PlannedStep`."""
    hlo: str
    """The optimised and scheduled HLO; empty where the program did not fit."""
    argument_bytes: int
    temp_bytes: int
    peak_bytes: int
    host_bytes: int
    """Temporaries in host memory (offloaded activations)."""
    lower_s: float
    compile_s: float
    memory_report: str
    """libtpu's memory-usage report: its buffers by size, each with the shapes that use it in turn."""
    out_of_memory: str | None = None
    """The compiler's message when the program does not fit, else None."""


class PlannedStep(NamedTuple):
    """A step to compile: its loss, the shapes of its batch, and how much it computes."""

    objective: Objective
    batch: Any
    """Pytree of ShapeDtypeStruct with shardings: `abstract_batch`."""
    tokens: int
    """Of one step, on all devices together."""
    flops: float
    """Model FLOPs of one step, on all devices together: `model_flops` of the family."""


def train_step(config: RunConfig, mesh: Mesh) -> PlannedStep:
    """The step of `tigerjax train` and `rl`: the token loss over a `Batch`, a loss over preferences, whose rows each
    hold one pair of the longest chats, or one over answers, of which a row holds one."""
    seq_len, settings = config.data.seq_len, config.objective
    chats = settings.CHATS if isinstance(settings, PreferenceConfig) else 1
    B, T = rows = config.global_batch_size, chats * seq_len
    dtypes = {"weights_BT": np.float32}
    batch = abstract_batch(Batch, {name: (rows, dtypes.get(name, np.int32)) for name in Batch._fields}, mesh)
    if isinstance(settings, PreferenceConfig):
        fields: dict[str, Any] = {"winner_BP": ((B, 1), np.int32), "loser_BP": ((B, 1), np.int32)}
        fields |= {"weight_BP": ((B, 1), np.float32), "unrelated_BC": ((B, chats), np.float32)}
        if isinstance(settings, ReferencedConfig):
            fields["reference_BC"] = ((B, chats), np.float32)
        batch = abstract_batch(functools.partial(PreferenceBatch, batch), fields, mesh)
    if isinstance(settings, RlConfig):
        names = ["old_BT", "correction_BT", "advantage_BT", *(["reference_BT"] if settings.kl else [])]
        names += ["value_BT", "return_BT"] if isinstance(settings, PpoConfig) else []
        batch = abstract_batch(functools.partial(PolicyBatch, batch), dict.fromkeys(names, (rows, np.float32)), mesh)
    objective = objectives.of(config, mesh)
    count = flops(objective.trained, config.model, tokens=B * T, seq_len=seq_len)
    return PlannedStep(objective, batch, B * T, count)


def abstract_batch(kind: Callable[..., Any], fields: dict[str, tuple[tuple[int, ...], Any]], mesh: Mesh) -> Any:
    """A batch of `kind` without values: field -> (shape, dtype), with the first axis of each split over the mesh."""
    split = sharding(mesh, "batch")
    return kind(**{name: jax.ShapeDtypeStruct(*field, sharding=split) for name, field in fields.items()})


def compile_for(
    config: RunConfig,
    topology: Topology,
    *,
    step_of: Callable[[RunConfig, Mesh], PlannedStep] = train_step,
    options: dict[str, Any] | None = None,
) -> Compiled:
    """Compiles the config's step for every device of `topology`, with the same `jit_step` that `train` runs.

    `options` are libtpu flags (name without dashes -> value); None takes those of libtpu_flags/ in this room. A program
    that does not fit is a result too (`out_of_memory`). ConfigError is for a mesh that does not fit the topology, for
    an unknown flag, and for offloading on a chip whose bandwidth to its host is not known.
    """
    chip = topology.chip
    if chip.host_bandwidth is None and config.compute.remat in stack.OFFLOADED:
        raise ConfigError(
            f"compute.remat={config.compute.remat} copies activations to host memory, and no bandwidth between a"
            f" {chip.name} and its host is published, so the step cannot be timed; choose one that does not offload"
        )
    mesh = make_mesh(config.mesh, describe(topology))
    objective, batch, tokens, count = step_of(config, mesh)
    tx = make_optimizer(config.optim)
    # Before the mesh is set: jax.random.key fails in a mesh of described devices.
    state = abstract_state(objective, tx, mesh)
    step = jit_step(objective, tx, config.optim, mesh)
    options = flags.of(topology) if options is None else options
    started = time.perf_counter()
    limits = None if config.health.spike is None else jax.ShapeDtypeStruct((2,), np.float32)
    lowered = in_mesh(mesh, step.lower)(state, batch, limits)
    lower_s = time.perf_counter() - started
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        try:
            compiled: Any = lowered.compile(compiler_options=OPTIONS | {"xla_dump_to": folder} | options)
            message = None
        except jax.errors.JaxRuntimeError as error:
            message = str(error)
            if "RESOURCE_EXHAUSTED" not in message:
                if re.search(r"No such compile option|unknown.*flag|Failed to parse .* into flag", message, re.I):
                    raise ConfigError(
                        f"libtpu refuses a flag: {message.splitlines()[0].rstrip(' :')}; correct it, or leave it out"
                    ) from error
                raise
        compile_s = time.perf_counter() - started
        report = "".join(p.read_text() for p in sorted(Path(folder).glob("*memory-usage-report.txt")))
    if message is not None:
        arguments, temporaries = sharded_bytes((state, batch)), _reported_bytes(report)
        return Compiled(
            options=options,
            tokens=tokens,
            flops=count,
            hlo="",
            argument_bytes=arguments,
            temp_bytes=temporaries,
            peak_bytes=arguments + temporaries,
            host_bytes=0,
            lower_s=lower_s,
            compile_s=compile_s,
            memory_report=report,
            out_of_memory=message,
        )
    memory = compiled.memory_analysis()
    peak = device_peak_bytes(memory)
    return Compiled(
        options=options,
        tokens=tokens,
        flops=count,
        hlo=compiled.as_text(),
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=peak - memory.argument_size_in_bytes,
        peak_bytes=peak,
        host_bytes=memory.host_temp_size_in_bytes,
        lower_s=lower_s,
        compile_s=compile_s,
        memory_report=report,
    )


def device_peak_bytes(memory: Any) -> int:
    """The most that a device holds at one time, from `memory_analysis()` of a compiled program.

    `peak_memory_in_bytes` counts the larger of device and host memory, so it is too large for a program that offloads
    much. `temp_size_in_bytes` is of the device alone, but has gaps between buffers as well.
    """
    return min(memory.peak_memory_in_bytes, memory.argument_size_in_bytes + memory.temp_size_in_bytes)


def sharded_bytes(tree: Any) -> int:
    """Bytes that one device holds of a tree of ShapeDtypeStruct with shardings. Padding to tiles is not counted."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _reported_bytes(report: str) -> int:
    """Bytes of temporaries in device memory, by libtpu's memory-usage report; 0 without a report."""
    total = re.search(r"Memory Space: default.*?\nTotal bytes: (\d+)", report)
    return int(total[1]) if total else 0
