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
LAYERS, MICRO_BATCHES = 3, 3
SPLIT = dataclasses.replace(
    RUN,
    model=dataclasses.replace(MODEL, num_layers=LAYERS),
    mesh=MeshConfig(data=2, fsdp=64, data_once=True),
    optim=dataclasses.replace(RUN.optim, gradient_accumulation_steps=MICRO_BATCHES),
    global_batch_size=2 * MICRO_BATCHES * RUN.global_batch_size,
)


@pytest.fixture(scope="module")
def program():
    with TRAINS_SO:
        compiled = compile_for(SPLIT, TWO, options=flags.of(TWO))
    assert compiled.out_of_memory is None
    return Program(compiled.hlo)


@pytest.fixture(scope="module")
def travels(program):
    return collectives.collectives(program, make_mesh(SPLIT.mesh, topology.describe(TWO)), TWO)


def test_weights_inside_a_slice_are_gathered_and_scattered_behind_computing(travels):
    large = [c for c in travels if c.axis == "fsdp" and c.payload >= SMALLEST_WEIGHT and c.loops]
    assert {c.op for c in large} == {"all-gather", "reduce-scatter"}, {(c.op, c.payload) for c in large}
    assert all(c.asynchronous for c in large), [c for c in large if not c.asynchronous]


def test_gradients_cross_once_a_step_in_float32(travels):
    D, F, V = MODEL.model_dim, MODEL.mlp_dim, MODEL.padded_vocab_size
    layer = D * (2 * MODEL.num_heads * MODEL.head_dim + 2 * MODEL.num_kv_heads * MODEL.head_dim + 3 * F)
    sent = {True: 0, False: 0}  # bytes of a chip, by whether they cross inside a loop
    for c in travels:
        if "data" in c.axis and c.op == collectives.DCN:
            sent[bool(c.loops)] += c.sent * c.times
    # The compiler takes the last layer of the pass out of the loop. The head's 64 columns of a chip are padded to 128.
    assert sent[True] == pytest.approx(4 * (LAYERS - 1) * layer / 64, rel=0.01)
    assert sum(sent.values()) == pytest.approx(4 * (LAYERS * layer + 2 * V * D) / 64, rel=0.05)


def test_those_of_a_layer_cross_while_the_layer_before_it_is_computed(program):
    """Every message is sent before the body's products, and waited for behind them."""
    bodies = {v.where.name: v.where for v in program.visits() if v.loops and v.instruction.opcode == "send-done"}
    assert len(bodies) == 1
    (body,) = bodies.values()
    order = list(body.instructions.values())
    sent = max(k for k, i in enumerate(order) if i.opcode == "send")
    waits = min(k for k, i in enumerate(order) if i.opcode in ("send-done", "recv-done"))
    cycles = [program.cycles_of(i) for i in order]
    assert sum(cycles[sent:waits]) > 0.9 * sum(cycles)
