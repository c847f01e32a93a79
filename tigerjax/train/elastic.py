"""A run that goes on without the copies of the model that are missing, as when one of several slices is lost.

A mesh has `mesh.data` copies of the model, which exchange only gradients. A start that finds fewer of them takes those:
the mesh's axis `data` is shorter, and each remaining copy computes as many more micro-batches. So the global batch, the
rows of each micro-batch on a device, and what a device holds stay as they were. Losses differ by the order of sums
only.
"""

import dataclasses
import math
from typing import Any

import jax

from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import AXES
from tigerjax.processes import hosts


def present(config: RunConfig) -> RunConfig:
    """The config for the copies that the devices of all processes hold; a line says so where some are missing.

    Raises as `of_present`."""
    if config.mesh.least_data is None:
        return config
    found = of_present(config, len(jax.devices()))
    if found is not config:
        hosts.say(
            f"{found.mesh.data} of {config.mesh.data} copies of the model are present; each computes"
            f" {found.optim.gradient_accumulation_steps} micro-batches in place of"
            f" {config.optim.gradient_accumulation_steps}"
        )
    return found


def of_present(config: RunConfig, devices: int) -> RunConfig:
    """The config for the copies that so many `devices` hold; `config` itself without `mesh.least_data`, and where all
    are there.

    ConfigError where no whole number of copies is there, fewer than `mesh.least_data`, or a number that does not divide
    the micro-batches of all copies."""
    mesh, steps = config.mesh, config.optim.gradient_accumulation_steps
    of_copy = math.prod(getattr(mesh, axis) for axis in AXES if axis != "data")
    if mesh.least_data is None or devices >= of_copy * mesh.data:  # more devices are `make_mesh`'s to refuse
        return config
    copies, rest = divmod(devices, of_copy)
    there = f"{devices} devices are present, and the mesh has mesh.data={mesh.data} copies of {of_copy}"
    if rest:
        raise ConfigError(f"{there}, of which {copies} are whole; start on a multiple of {of_copy} devices")
    if copies < mesh.least_data:
        raise ConfigError(
            f"{there}; {copies} are fewer than mesh.least_data={mesh.least_data}; start more of them, or lower it"
        )
    if steps * mesh.data % copies:
        raise ConfigError(
            f"{there}; {copies} cannot share {mesh.data} x optim.gradient_accumulation_steps={steps} micro-batches"
            f" equally; start {_words(whole(config))} of them, or set optim.gradient_accumulation_steps to a multiple"
            f" of {math.lcm(copies, mesh.data) // mesh.data}"
        )
    return dataclasses.replace(
        config,
        mesh=dataclasses.replace(mesh, data=copies),
        optim=dataclasses.replace(config.optim, gradient_accumulation_steps=steps * mesh.data // copies),
    )


def whole(config: RunConfig) -> list[int]:
    """With how many copies a run can go on, in rising order."""
    mesh, steps = config.mesh, config.optim.gradient_accumulation_steps
    least = mesh.data if mesh.least_data is None else mesh.least_data
    return [copies for copies in range(least, mesh.data + 1) if steps * mesh.data % copies == 0]


def event(config: RunConfig, present: RunConfig) -> dict[str, Any] | None:
    """The line of events.jsonl about a start of `config` that goes on as `present`; None for a run that is not
    elastic."""
    if config.mesh.least_data is None:
        return None
    steps = present.optim.gradient_accumulation_steps
    return {"event": "copies", "present": present.mesh.data, "of": config.mesh.data, "micro_batches": steps}


def _words(numbers: list[int]) -> str:
    return " or ".join(map(str, numbers))
