"""TPU slices by name: published facts of their chips, and described devices."""

import dataclasses
import importlib.util
import os
import re
from typing import Any

from tigerjax.errors import ConfigError, near_miss

COMPILER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # the host's own backend; the TPU is only described
    "TPU_SKIP_MDS_QUERY": "1",  # no question to a cloud metadata server that is not there
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a lock file admits one process at a time
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # this and the next only spare two warnings; the topology is always given
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""What libtpu needs to compile on a machine without a TPU; to be set before jax is imported."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """Facts of one chip. Rates are per second, bandwidths are bytes a second in one direction."""

    name: str
    peak_flops: float
    """Dense bfloat16 (Google Cloud TPU documentation)."""
    hbm_bytes: int
    """What the compiler of libtpu 0.0.42.1 lets a program use: the figure of its out-of-memory message."""
    hbm_bandwidth: float
    """Google Cloud TPU documentation."""
    clock_hz: float
    """Of `estimated_cycles`; matrix units x 2 x side^2 x clock is the peak above (a test compiles a matmul)."""
    link_bandwidth: float
    """One ICI link, one way: the achievable figure of "How to Scale Your Model" (Google DeepMind 2025), part 2.
    The Cloud documentation's nominal figure is a tenth higher."""
    dcn_bandwidth: float
    """Of one chip's share of the host's network cards, out; the same table."""
    host_bandwidth: float
    """Between a chip and its host's memory, one way (PCIe); the same part of the same book."""
    dims: int
    """Axes of the torus."""
    wrap_multiple: int
    whole_cube: bool
    """Whether axes wrap together (v4, v5p: when every one is a multiple of `wrap_multiple`) or each by itself."""
    chip_config: str
    """libtpu's name for the way cores make devices; "megacore" joins the two TensorCores of a v4 or v5p chip."""

    @property
    def device_kind(self) -> str:
        return {"v4": "TPU v4", "v5p": "TPU v5", "v5e": "TPU v5 lite", "v6e": "TPU v6 lite"}[self.name]


GIB = 2**30
CHIPS = {
    "v4": Chip(
        name="v4",
        peak_flops=275e12,
        hbm_bytes=int(30.75 * GIB),
        hbm_bandwidth=1.2e12,
        clock_hz=1.05e9,
        link_bandwidth=4.5e10,
        dcn_bandwidth=6.25e9,
        host_bandwidth=1.6e10,
        dims=3,
        wrap_multiple=4,
        whole_cube=True,
        chip_config="megacore",
    ),
    "v5p": Chip(
        name="v5p",
        peak_flops=459e12,
        hbm_bytes=int(95.74 * GIB),
        hbm_bandwidth=2.765e12,
        clock_hz=1.75e9,
        link_bandwidth=9e10,
        dcn_bandwidth=6.25e9,
        host_bandwidth=1.6e10,
        dims=3,
        wrap_multiple=4,
        whole_cube=True,
        chip_config="megacore",
    ),
    "v5e": Chip(
        name="v5e",
        peak_flops=197e12,
        hbm_bytes=int(15.75 * GIB),
        hbm_bandwidth=8.1e11,
        clock_hz=1.5e9,
        link_bandwidth=4.5e10,
        dcn_bandwidth=3.125e9,
        host_bandwidth=1.6e10,
        dims=2,
        wrap_multiple=16,
        whole_cube=False,
        chip_config="default",
    ),
    "v6e": Chip(
        name="v6e",
        peak_flops=918e12,
        hbm_bytes=int(31.25 * GIB),
        hbm_bandwidth=1.638e12,
        clock_hz=1.75e9,
        link_bandwidth=9e10,
        dcn_bandwidth=1.25e10,
        host_bandwidth=3.2e10,
        dims=2,
        wrap_multiple=16,
        whole_cube=False,
        chip_config="default",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """`slices` equal slices of `shape` chips, joined by the data-centre network."""

    chip: Chip
    shape: tuple[int, ...]
    """Chips along each axis of the torus: two for v5e and v6e, three for v4 and v5p."""
    slices: int = 1

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        n = self.slices
        for size in self.shape:
            n *= size
        return n

    @property
    def wrap(self) -> tuple[bool, ...]:
        """Which axes close into rings. v4 and v5p: all, if every size is a multiple of 4 (whole cubes through the
        optical switches), else none. v5e and v6e: an axis that spans the pod's 16."""
        each = tuple(size % self.chip.wrap_multiple == 0 for size in self.shape)
        return (all(each),) * len(each) if self.chip.whole_cube else each


def parse(text: str, slices: int = 1) -> Topology:
    """`v5p:4x4x4` is 64 chips. ConfigError for a chip or a shape that is not there.

    Sizes count chips; Cloud's accelerator names count TensorCores on v4 and v5p (v5p-128 is 4x4x4).
    """
    known = "v4:4x4x4, v5p:4x8x8, v5e:16x16 or v6e:16x16"
    match = re.fullmatch(r"(v\w+):(\d+(?:x\d+)*)", text)
    if match is None or match[1] not in CHIPS:
        near = near_miss(text.partition(":")[0], CHIPS)
        raise ConfigError(f"topology {text!r} is not CHIP:SHAPE{near}; give chips along each axis, such as {known}")
    chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
    if len(shape) != chip.dims or min(shape) < 1:
        raise ConfigError(f"topology {text!r}: {chip.name} slices have {chip.dims} axes; write it like {known}")
    if chip.dims == 2 and max(shape) > 16:
        raise ConfigError(f"topology {text!r}: a {chip.name} pod is 16x16; use --slices for more")
    if slices < 1:
        raise ConfigError(f"slices={slices} must be at least 1")
    return Topology(chip=chip, shape=shape, slices=slices)


def set_compiler_environment() -> None:
    """Puts COMPILER_ENVIRONMENT in place; ConfigError where libtpu is not installed. Call before importing jax."""
    if importlib.util.find_spec("libtpu") is None:
        raise ConfigError(
            "the TPU compiler is not installed: `pip install libtpu==0.0.42.1` (the version that jax 0.10.2 pins;"
            " a newer one writes programs that this jax cannot read back)"
        )
    for name, value in COMPILER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def describe(topology: Topology) -> list[Any]:
    """The slice's devices, which can be compiled for and nothing else."""
    set_compiler_environment()
    from jax.experimental import topologies

    padded = (*topology.shape, 1)[:3]
    wrap = (*topology.wrap, False)[:3]
    bounds = tuple(min(want, size) for want, size in zip((2, 2, 1), padded, strict=True))
    described = topologies.get_topology_desc(
        platform="tpu",
        topology_name=topology.name,
        chip_config_name=topology.chip.chip_config,
        chips_per_host_bounds=bounds,
        num_slices=topology.slices,
        wrap=wrap,
    )
    return list(described.devices)
