"""The step that `train` runs, lowered and compiled for a described slice."""

import dataclasses
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

from tigerjax.config import RunConfig
from tigerjax.data.rows import Batch
from tigerjax.errors import ConfigError
from tigerjax.mesh import in_mesh, make_mesh, sharding
from tigerjax.model import families
from tigerjax.plan import flags
from tigerjax.plan.topology import Topology, describe
from tigerjax.train.objective import Objective, token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import abstract_state
from tigerjax.train.step import jit_step

OPTIONS = {"xla_dump_hlo_as_text": True}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled:
    """What one compilation says. Bytes are of one chip; where the program does not fit, temporaries are what it
    would need and the peak is the sum with the arguments."""

    options: dict[str, Any]
    """libtpu flags that it was compiled with."""
    tokens: int
    flops: float
    """Of the model, a step and all chips: see `Work`."""
    hlo: str
    """Optimised, scheduled HLO; empty where the program did not fit."""
    argument_bytes: int
    temp_bytes: int
    peak_bytes: int
    host_bytes: int
    """Temporaries in host memory (offloaded activations)."""
    lower_s: float
    compile_s: float
    memory_report: str
    """libtpu's memory-usage report: buffers by size, with the shapes that share each."""
    out_of_memory: str | None = None
    """The compiler's message when the program does not fit, else None."""


class Work(NamedTuple):
    """What a step computes."""

    objective: Objective
    batch: Any
    """Pytree of ShapeDtypeStruct with shardings; leading axis rows."""
    tokens: int
    """Of a step."""
    flops: float
    """Model FLOPs of a step, all chips together: `model_flops` of the family."""


def token_work(config: RunConfig, mesh: Mesh) -> Work:
    """The token loss over the `Batch` of `train`."""
    rows, cut = (config.batch_rows, config.data.seq_len), sharding(mesh, "batch")
    dtypes = {"weights_BT": np.float32}
    fields: Any = {name: jax.ShapeDtypeStruct(rows, dtypes.get(name, np.int32), sharding=cut) for name in Batch._fields}
    tokens = math.prod(rows)
    flops = families.of(config.model).model_flops(config.model, tokens=tokens, seq_len=config.data.seq_len)
    return Work(token_objective(config, mesh), Batch(**fields), tokens, flops)


def compile_for(
    config: RunConfig,
    topology: Topology,
    *,
    work: Callable[[RunConfig, Mesh], Work] = token_work,
    options: dict[str, Any] | None = None,
) -> Compiled:
    """Compiles the config's step for every chip of `topology`: `jit_step`, as `train` does.

    `options` are libtpu flags (name without dashes -> value); None takes those of launch/libtpu_flags/. Running out
    of memory is an answer (`out_of_memory`); ConfigError is for a mesh that does not fit the topology and for an
    unknown flag.
    """
    mesh = make_mesh(config.mesh, describe(topology))
    objective, batch, tokens, flops = work(config, mesh)
    tx = make_optimizer(config.optim)
    # The shardings are computed before the mesh is set: jax.random.key fails where only described devices are.
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
                if re.search(r"No such compile option|unknown.*flag", message, re.I):
                    raise ConfigError(f"libtpu refuses a flag: {message.splitlines()[0]}") from error
                raise
        compile_s = time.perf_counter() - started
        report = "".join(p.read_text() for p in sorted(Path(folder).glob("*memory-usage-report.txt")))
    if message is not None:
        arguments, temporaries = sharded_bytes((state, batch)), _reported_bytes(report)
        return Compiled(
            options=options,
            tokens=tokens,
            flops=flops,
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
    return Compiled(
        options=options,
        tokens=tokens,
        flops=flops,
        hlo=compiled.as_text(),
        argument_bytes=memory.argument_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        host_bytes=memory.host_temp_size_in_bytes,
        lower_s=lower_s,
        compile_s=compile_s,
        memory_report=report,
    )


def sharded_bytes(tree: Any) -> int:
    """Bytes that one chip holds of a tree of ShapeDtypeStruct with shardings; tile padding not counted."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _reported_bytes(report: str) -> int:
    """Temporaries in device memory by libtpu's memory-usage report; 0 without one."""
    found = re.search(r"Memory Space: default.*?\nTotal bytes: (\d+)", report)
    return int(found[1]) if found else 0
