"""Slices by name: what is refused, which axes wrap, what devices they have, and how fast a matmul is by the clock."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from tigerjax.config import MeshConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import AXES, make_mesh
from tigerjax.plan import topology
from tigerjax.plan.trips import Program
from tigerjax.train.metrics import PEAK_TFLOPS


@pytest.mark.parametrize(
    ("text", "chips", "wrap"),
    [
        ("v5p:4x4x4", 64, (True, True, True)),
        ("v5p:4x4x8", 128, (True, True, True)),
        ("v5p:2x2x1", 4, (False, False, False)),
        ("v5p:2x4x4", 32, (False, False, False)),
        ("v4:8x8x8", 512, (True, True, True)),
        ("v5e:16x16", 256, (True, True)),
        ("v5e:8x16", 128, (False, True)),
        ("v6e:4x4", 16, (False, False)),
        ("tpu7x:4x4x8", 128, (True, True, True)),
        ("tpu7x:2x2x1", 4, (False, False, False)),
    ],
)
def test_a_slice_has_its_chips_and_its_rings(text, chips, wrap):
    parsed = topology.parse(text)
    assert (parsed.chips, parsed.wrap, parsed.name) == (chips, wrap, text)
    assert topology.parse(text, slices=3).chips == 3 * chips


@pytest.mark.parametrize("text", ["v5p-128", "v5p:4x4", "v7:4x4x4", "v5e:16x16x1", "v5e:32x16", "v5p:0x4x4", "4x4x4"])
def test_a_slice_that_is_not_there_is_refused_with_an_example(text):
    with pytest.raises(ConfigError, match="topology"):
        topology.parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("v5p:3x3x3", "a host of v5p has 2x2 chips, so the first two sizes must be 1 or even"),
        ("v5e:2x5", "a host of v5e has 2x2 chips"),
        ("v5p:1000x1000x1000", "has 1000000000 chips, and a v5p pod 8960; use --slices for more"),
        ("v5p", "is not CHIP:SHAPE; give chips along each axis"),
    ],
)
def test_a_shape_that_the_compiler_cannot_describe_is_refused_before_it_sees_it(text: str, says: str):
    with pytest.raises(ConfigError, match=says):
        topology.parse(text)


def test_peaks_are_those_of_the_training_log():
    for chip in topology.CHIPS.values():
        assert PEAK_TFLOPS[chip.device_kind] * 1e12 == chip.device_flops == chip.peak_flops / chip.devices


@pytest.mark.tpu
@pytest.mark.parametrize("text", ["v4:4x4x4", "v5p:4x4x4", "v5e:4x8", "v6e:16x16", "tpu7x:2x2x1", "tpu7x:4x4x4"])
def test_described_devices_are_those_of_the_slice(text):
    parsed = topology.parse(text)
    devices = topology.describe(parsed)
    assert len(devices) == parsed.devices and {d.device_kind for d in devices} == {parsed.chip.device_kind}
    chips = {tuple(d.coords) for d in devices}
    assert len(chips) == parsed.chips and parsed.devices == parsed.chip.devices * parsed.chips


@pytest.mark.tpu
def test_data_crosses_slices_and_nothing_else_does():
    two = topology.parse("v5p:2x2x1", slices=2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), topology.describe(two))
    assert mesh.axis_names == AXES
    for half in range(2):
        assert {d.slice_index for d in mesh.devices[half].flat} == {half}
    with pytest.raises(ConfigError, match="2 slices"):
        make_mesh(MeshConfig(fsdp=8), topology.describe(two))


# A large matmul is all matrix unit. For this one both compilers estimate 87% (v6e) to 97% (v5e) of the peak,
# and 81% to 83% on tpu7x (86% with sides of 16,384). A wrong number of matrix units would be off by a factor of 2.
LEAST, MOST = 0.8, 1.0


@pytest.mark.tpu
@pytest.mark.parametrize("name", topology.CHIPS)
def test_clock_times_cycles_of_a_large_matmul_is_near_the_peak(name):
    parsed = topology.parse({2: f"{name}:2x2", 3: f"{name}:2x2x1"}[topology.CHIPS[name].dims])
    M = K = N = 4096
    place = SingleDeviceSharding(topology.describe(parsed)[0])
    a, b = (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in ((M, K), (K, N)))
    text = jax.jit(jnp.matmul).lower(a, b).compile().as_text()
    seconds = Program(text).cycles / parsed.chip.clock_hz
    assert LEAST < 2 * M * K * N / seconds / parsed.chip.device_flops < MOST


@pytest.mark.tpu
@pytest.mark.parametrize("name", topology.CHIPS)
def test_a_program_may_use_the_memory_that_the_chip_is_said_to_have(name):
    parsed = topology.parse({2: f"{name}:2x2", 3: f"{name}:2x2x1"}[topology.CHIPS[name].dims])
    place = SingleDeviceSharding(topology.describe(parsed)[0])
    half = parsed.chip.hbm_bytes // 2
    for size, fits in ((int(0.98 * half), True), (int(1.02 * half), False)):  # argument and result: twice the size
        x = jax.ShapeDtypeStruct((size // 2**20, 1024, 1024), jnp.int8, sharding=place)
        lowered = jax.jit(lambda x: x + 1).lower(x)
        if fits:
            lowered.compile()
        else:
            with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
                lowered.compile()


@pytest.mark.parametrize(
    ("name", "ours"),
    {
        "v5p-128": "v5p:4x4x4",
        "v5p-8": "v5p:2x2x1",
        "v4-32": "v4:2x2x4",
        "v5litepod-16": "v5e:4x4",
        "v5e-128": "v5e:8x16",
        "v6e-8": "v6e:2x4",
        "v6e-512": "v6e:16x16 with --slices 2",
        "v5p-24": "v5p:SHAPE with 12 chips",
    }.items(),
)
def test_the_name_of_an_accelerator_is_answered_with_its_topology(name: str, ours: str):
    with pytest.raises(ConfigError, match=f"topology '{name}' is Cloud's name; here it is {ours}"):
        topology.parse(name)
    with pytest.raises(ConfigError, match="is not CHIP:SHAPE"):
        topology.parse("v5p-7")
