"""Slices by name: what is refused, which axes wrap, and that clock x cycles of a matmul is near the peak."""

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


def test_peaks_are_those_of_the_training_log():
    for chip in topology.CHIPS.values():
        assert PEAK_TFLOPS[chip.device_kind] * 1e12 == chip.peak_flops


@pytest.mark.tpu
@pytest.mark.parametrize("text", ["v4:4x4x4", "v5p:4x4x4", "v5e:4x8", "v6e:16x16"])
def test_described_devices_are_those_of_the_slice(text):
    parsed = topology.parse(text)
    devices = topology.describe(parsed)
    assert len(devices) == parsed.chips and {d.device_kind for d in devices} == {parsed.chip.device_kind}


@pytest.mark.tpu
def test_data_crosses_slices_and_nothing_else_does():
    two = topology.parse("v5p:2x2x1", slices=2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2), topology.describe(two))
    assert mesh.axis_names == AXES
    for half in range(2):
        assert {d.slice_index for d in mesh.devices[half].flat} == {half}
    with pytest.raises(ConfigError, match="2 slices"):
        make_mesh(MeshConfig(fsdp=8), topology.describe(two))


# A large matmul is all matrix unit; libtpu 0.0.42.1 estimates 87% (v6e) to 97% (v5e) of the peak for this one.
LEAST, MOST = 0.85, 1.0


@pytest.mark.tpu
@pytest.mark.parametrize("name", ["v4", "v5p", "v5e", "v6e"])
def test_clock_times_cycles_of_a_large_matmul_is_near_the_peak(name):
    parsed = topology.parse({2: f"{name}:2x2", 3: f"{name}:2x2x1"}[topology.CHIPS[name].dims])
    M = K = N = 4096
    place = SingleDeviceSharding(topology.describe(parsed)[0])
    a, b = (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=place) for shape in ((M, K), (K, N)))
    text = jax.jit(jnp.matmul).lower(a, b).compile().as_text()
    seconds = Program(text).cycles / parsed.chip.clock_hz
    assert LEAST < 2 * M * K * N / seconds / parsed.chip.peak_flops < MOST
