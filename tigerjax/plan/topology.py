"""TPU slices by name: what is published about their chips, and devices to compile for."""

import dataclasses
import importlib.metadata
import importlib.util
import math
import os
import re
from typing import Any

from tigerjax.errors import ConfigError, near_miss

COMPILER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",  # for the host's own arrays; the TPU is only described
    "TPU_SKIP_MDS_QUERY": "1",  # else libtpu asks for the metadata server of a cloud VM
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # else a lock file admits one process at a time
    "TPU_ACCELERATOR_TYPE": "v5p-8",  # this and the next avoid two warnings; the topology is always given
    "TPU_WORKER_HOSTNAMES": "localhost",
}
"""What libtpu needs to compile on a machine without a TPU. It must be set before jax is imported."""


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Chip:
    """Facts of one chip. Rates are per second; bandwidths are bytes per second in one direction.

    There are two sources. "Cloud" is Google Cloud's page of the generation, such as
    https://docs.cloud.google.com/tpu/docs/tpu7x. "The book" is part 2 of "How to Scale Your Model" (Google
    DeepMind, 2025).
    """

    name: str
    device_kind: str
    """What jax calls a device of this chip."""
    devices: int
    """Devices that jax sees on one chip. On a TPU7x it is two: each has its own TensorCore and half of the memory, and
    both share the chip's links (Cloud). Everywhere else it is one."""
    peak_flops: float
    """Dense bfloat16, all devices of the chip together (Cloud)."""
    hbm_bytes: int
    """Memory that the compiler lets a program use on one device: the figure of its out-of-memory message."""
    hbm_bandwidth: float
    """All devices of the chip together (Cloud)."""
    vmem_bytes: int
    """Vector memory of one TensorCore, which a kernel's blocks share (jax/_src/pallas/mosaic/tpu_info.py)."""
    clock_hz: float
    """The clock in which the compiler counts `estimated_cycles`. No page states it. It is the peak above divided by the
    operations of all matrix units in one cycle, and a test compares it with the cycles of a compiled matmul."""
    link_bandwidth: float
    """One ICI link, one way, as far as programs reach it (the book). Cloud's figure is a tenth higher. The book has no
    TPU7x. Cloud gives it the links of a v5p (1200 GB/s per chip, both ways), so it has the v5p's figure here."""
    dcn_bandwidth: float
    """To the data-centre network, out: a chip's share of its host's network cards (the book; for TPU7x Cloud)."""
    host_bandwidth: float | None
    """Between a chip and the memory of its host, one way, by PCIe (the book). None where no figure is published."""
    die_bandwidth: float | None = None
    """Between the two devices of a TPU7x, one way: six times an ICI link (Cloud). None for chips of one device."""
    dims: int
    """Axes of the torus."""
    wrap_multiple: int
    """An axis closes into a ring when its size is a multiple of this."""
    whole_cube: bool
    """Whether an axis closes only when all of them do (v4, v5p, TPU7x), or each by itself."""
    pod_chips: int
    """Chips of the largest slice (Cloud)."""
    chip_config: str
    """libtpu's name for how the cores of a chip make devices. "megacore" joins the two TensorCores of a v4 or v5p chip
    into one device."""

    @property
    def device_flops(self) -> float:
        """The bfloat16 peak of one device."""
        return self.peak_flops / self.devices


GIB, MIB = 2**30, 2**20
CHIPS = {
    "v4": Chip(
        name="v4",
        device_kind="TPU v4",
        devices=1,
        peak_flops=275e12,
        hbm_bytes=int(30.75 * GIB),
        hbm_bandwidth=1.2e12,
        vmem_bytes=16 * MIB,
        clock_hz=1.05e9,
        link_bandwidth=4.5e10,
        dcn_bandwidth=6.25e9,
        host_bandwidth=1.6e10,
        dims=3,
        wrap_multiple=4,
        whole_cube=True,
        pod_chips=4096,
        chip_config="megacore",
    ),
    "v5p": Chip(
        name="v5p",
        device_kind="TPU v5",
        devices=1,
        peak_flops=459e12,
        hbm_bytes=int(95.74 * GIB),
        hbm_bandwidth=2.765e12,
        vmem_bytes=64 * MIB,
        clock_hz=1.75e9,
        link_bandwidth=9e10,
        dcn_bandwidth=6.25e9,
        host_bandwidth=1.6e10,
        dims=3,
        wrap_multiple=4,
        whole_cube=True,
        pod_chips=8960,
        chip_config="megacore",
    ),
    "v5e": Chip(
        name="v5e",
        device_kind="TPU v5 lite",
        devices=1,
        peak_flops=197e12,
        hbm_bytes=int(15.75 * GIB),
        hbm_bandwidth=8.1e11,
        vmem_bytes=128 * MIB,
        clock_hz=1.5e9,
        link_bandwidth=4.5e10,
        dcn_bandwidth=3.125e9,
        host_bandwidth=1.6e10,
        dims=2,
        wrap_multiple=16,
        whole_cube=False,
        pod_chips=256,
        chip_config="default",
    ),
    "v6e": Chip(
        name="v6e",
        device_kind="TPU v6 lite",
        devices=1,
        peak_flops=918e12,
        hbm_bytes=int(31.25 * GIB),
        hbm_bandwidth=1.638e12,
        vmem_bytes=128 * MIB,
        clock_hz=1.75e9,
        link_bandwidth=9e10,
        dcn_bandwidth=1.25e10,
        host_bandwidth=3.2e10,
        dims=2,
        wrap_multiple=16,
        whole_cube=False,
        pod_chips=256,
        chip_config="default",
    ),
    "tpu7x": Chip(
        name="tpu7x",
        device_kind="TPU7x",
        devices=2,
        peak_flops=2307e12,
        hbm_bytes=int(94.74 * GIB),
        hbm_bandwidth=7.38e12,
        vmem_bytes=64 * MIB,
        clock_hz=2.2e9,
        link_bandwidth=9e10,
        dcn_bandwidth=1.25e10,
        host_bandwidth=None,
        die_bandwidth=5.4e11,
        dims=3,
        wrap_multiple=4,
        whole_cube=True,
        pod_chips=9216,
        chip_config="default",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """`slices` equal slices of `shape` chips, joined by the data-centre network."""

    chip: Chip
    shape: tuple[int, ...]
    """Chips along each axis of the torus: two axes for v5e and v6e, three for v4, v5p and TPU7x."""
    slices: int = 1

    @property
    def name(self) -> str:
        return f"{self.chip.name}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return self.slices * math.prod(self.shape)

    @property
    def devices(self) -> int:
        """What the degrees of a mesh on this topology must multiply to."""
        return self.chips * self.chip.devices

    @property
    def wrap(self) -> tuple[bool, ...]:
        """Which axes close into rings. v4, v5p and TPU7x: all of them if every size is a multiple of 4 (whole cubes are
        joined by optical switches), else none. v5e and v6e: an axis that spans the 16 chips of the pod."""
        each = tuple(size % self.chip.wrap_multiple == 0 for size in self.shape)
        return (all(each),) * len(each) if self.chip.whole_cube else each


def parse(text: str, slices: int = 1) -> Topology:
    """The topology that `text` names: `v5p:4x4x4` is 64 chips. ConfigError for an unknown chip or shape.

    The sizes count chips. Cloud's names of accelerators count TensorCores on v4, v5p and TPU7x: v5p-128 is 4x4x4.
    """
    examples = "v4:4x4x4, v5p:4x8x8, v5e:16x16, v6e:16x16 or tpu7x:4x4x4"
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)*)", text)
    if match is None or match[1] not in CHIPS:
        if (slice_of := _of_accelerator(text)) is not None:
            raise ConfigError(f"topology {text!r} is Cloud's name; here it is {slice_of}, chips along each axis")
        name = text.partition(":")[0]
        near = "" if name in CHIPS else near_miss(name, CHIPS)
        raise ConfigError(f"topology {text!r} is not CHIP:SHAPE{near}; give chips along each axis, such as {examples}")
    chip, shape = CHIPS[match[1]], tuple(int(size) for size in match[2].split("x"))
    if len(shape) != chip.dims:
        raise ConfigError(f"topology {text!r}: {chip.name} slices have {chip.dims} axes; write it like {examples}")
    if chip.dims == 2 and max(shape) > 16:
        raise ConfigError(f"topology {text!r}: a {chip.name} pod is 16x16; use --slices for more")
    if any(size != 1 and size % 2 for size in shape[:2]) or min(shape) < 1:
        raise ConfigError(
            f"topology {text!r}: a host of {chip.name} has 2x2 chips, so the first two sizes must be 1 or even; change"
            f" them, as in {examples}"
        )
    if (chips := math.prod(shape)) > chip.pod_chips:
        raise ConfigError(
            f"topology {text!r} has {chips} chips, and a {chip.name} pod {chip.pod_chips}; use --slices for more"
        )
    if slices < 1:
        raise ConfigError(f"slices={slices} must be at least 1")
    return Topology(chip=chip, shape=shape, slices=slices)


def _of_accelerator(text: str) -> str | None:
    """`v5p-128` -> `v5p:4x4x4`; None for what is no name of Cloud's.

    Cloud counts two TensorCores a chip on v4, v5p and TPU7x, and chips on v5e and v6e. The axes are as equal as
    they can be, the shorter ones first, as Cloud has them where nobody asks for others.
    """
    match = re.fullmatch(r"(\w+)-(\d+)", text)
    chip = CHIPS.get({"v5litepod": "v5e", "v5lite": "v5e", "v7x": "tpu7x"}.get(match[1], match[1])) if match else None
    if match is None or chip is None:
        return None
    count, odd = divmod(int(match[2]), 1 if chip.dims == 2 else 2)
    if count < 1 or odd:
        return None
    if count & (count - 1):
        return f"{chip.name}:SHAPE with {count} chips"
    if chip.dims == 2 and count > 256:
        return f"{chip.name}:16x16 with --slices {count // 256}"
    power = count.bit_length() - 1
    shape = sorted(2 ** ((power + axis) // chip.dims) for axis in range(chip.dims))
    return f"{chip.name}:{'x'.join(map(str, (2, 2, 1) if shape == [1, 2, 2] else shape))}"


def set_compiler_environment() -> None:
    """Sets COMPILER_ENVIRONMENT, except what the environment has already. ConfigError where libtpu is not installed.

    Call it before jax is imported.
    """
    if importlib.util.find_spec("libtpu") is None:
        jax = importlib.metadata.version("jax")
        raise ConfigError(
            f"the TPU compiler is not installed: `pip install '{_libtpu_of(jax)}'`, which goes with jax {jax}"
        )
    for name, value in COMPILER_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def _libtpu_of(jax: str) -> str:
    """The requirement for pip. A libtpu that is newer than 0.0.42 writes programs that jax 0.10 cannot read back."""
    return "libtpu==0.0.42.1" if jax.startswith("0.10.") else "libtpu>=0.0.52"


def describe(topology: Topology) -> list[Any]:
    """The devices of the slice. Programs can be compiled for them, and nothing can be run on them."""
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
