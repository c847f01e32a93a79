"""The compiled step over two slices with `mesh.data_once`, read: what waits inside a slice, and what crosses."""

import dataclasses

import pytest
from test_tpu_step import MODEL, RUN, SMALLEST_WEIGHT, TRAINS_SO

from tigerjax.config import MeshConfig
from tigerjax.mesh import make_mesh
from tigerjax.plan import collectives, flags, topology
from tigerjax.plan.compile import compile_for
from tigerjax.plan.trips import Program

pytestmark = [pytest.mark.tpu, pytest.mark.slow]

TWO = topology.parse("v5p:4x4x4", slices=2)
LAYERS, MICRO_BATCHES = 2, 2
SPLIT = dataclasses.replace(
    RUN,
    model=dataclasses.replace(MODEL, num_layers=LAYERS),
    mesh=MeshConfig(data=2, fsdp=64, data_once=True),
    optim=dataclasses.replace(RUN.optim, gradient_accumulation_steps=MICRO_BATCHES),
    global_batch_size=2 * MICRO_BATCHES * RUN.global_batch_size,
)


@pytest.fixture(scope="module")
def travels():
    with TRAINS_SO:
        compiled = compile_for(SPLIT, TWO, options=flags.of(TWO))
    assert compiled.out_of_memory is None
    return collectives.collectives(Program(compiled.hlo), make_mesh(SPLIT.mesh, topology.describe(TWO)), TWO)


def test_weights_inside_a_slice_are_gathered_and_scattered_behind_computing(travels):
    large = [c for c in travels if c.axis == "fsdp" and c.payload >= SMALLEST_WEIGHT and c.loops]
    assert {c.op for c in large} == {"all-gather", "reduce-scatter"}, {(c.op, c.payload) for c in large}
    assert all(c.asynchronous for c in large), [c for c in large if not c.asynchronous]


def test_gradients_cross_once_a_step_in_float32(travels):
    crossing = [c for c in travels if "data" in c.axis]
    assert not [c for c in crossing if c.loops]
    D, F, V = MODEL.model_dim, MODEL.mlp_dim, MODEL.padded_vocab_size
    matrices = LAYERS * D * (2 * MODEL.num_heads * MODEL.head_dim + 2 * MODEL.num_kv_heads * MODEL.head_dim + 3 * F)
    share = 4 * (matrices + 2 * V * D) / 64  # bytes of a chip
    sent = sum(c.sent * c.times for c in crossing if c.op == collectives.DCN)
    assert sent == pytest.approx(share, rel=0.05)  # the head's 64 columns of a chip are padded to 128
