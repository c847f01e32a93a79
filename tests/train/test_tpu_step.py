"""The compiled TPU step, read: how weights and gradients travel, and how often the attention kernel runs."""

import dataclasses
import math
from pathlib import Path

import jax
import pytest

from tigerjax.config import (
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PipelineConfig,
    RunConfig,
    SplashConfig,
)
from tigerjax.mesh import make_mesh
from tigerjax.plan import collectives, flags, kernels, topology
from tigerjax.plan.compile import compile_for
from tigerjax.plan.estimate import Estimator
from tigerjax.plan.trips import Program

pytestmark = pytest.mark.tpu

FLAGS = Path(__file__).parents[2] / "tigerjax" / "plan" / "libtpu_flags" / "v5p.txt"
WRAPPED = topology.parse("v5p:4x4x4")
LAYERS = 3
# Sizes of a 7B's matrices: of small ones the compiler reduces gradients as it pleases. No two are equal.
MODEL = ModelConfig(
    num_layers=LAYERS, model_dim=4096, mlp_dim=11008, num_heads=24, num_kv_heads=8, head_dim=128, vocab_size=2000,
    padded_vocab_size=2048, rope_base=10_000.0, norm_eps=1e-5,
)  # fmt: skip
T = 256
"""Tokens of a row. How weights travel does not depend on them, and the compiler takes half the time that it takes at
1,024: it tries fewer tiles of each product."""
BLOCKS = SplashConfig(
    block_q=T, block_kv=T, block_kv_compute=T, block_q_dkv=T, block_kv_dkv=T, block_kv_dkv_compute=T, block_q_dq=T,
    block_kv_dq=T,
)  # fmt: skip
RUN = RunConfig(
    name="tpu_step",
    model=MODEL,
    compute=ComputeConfig(
        attention="splash", remat="save_attention", dtype="bfloat16", loss_chunk_tokens=64 * T, splash=BLOCKS
    ),
    mesh=MeshConfig(fsdp=64),
    optim=OptimConfig(
        peak_lr=1e-4, final_lr_fraction=0.1, warmup_steps=1, total_steps=10, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0,
    ),
    data=DataConfig(mixture="none", modules=(), tokenizer="none", cache_dir="none", seq_len=T),
    checkpoint=CheckpointConfig(every_steps=1, keep=1),
    global_batch_size=64,
    seed=0,
    log_every_steps=1,
)  # fmt: skip
TRAINS_SO = jax.default_matmul_precision("default")
"""The suite's own "highest" asks for float32 products, which the kernel refuses of bfloat16."""
SMALLEST_WEIGHT = 2 * 4096 * 8 * 128  # k, in bfloat16 bytes


@pytest.fixture(scope="module")
def program() -> Program:
    with TRAINS_SO:
        compiled = compile_for(RUN, WRAPPED, options=dict(flags.read(FLAGS)))
    assert compiled.out_of_memory is None
    return Program(compiled.hlo)


@pytest.fixture(scope="module")
def travels(program):
    from tigerjax.plan.topology import describe

    return collectives.collectives(program, make_mesh(RUN.mesh, describe(WRAPPED)), WRAPPED)


def test_the_gradient_of_every_matrix_of_a_layer_leaves_by_reduce_scatter_and_none_by_all_reduce(travels):
    large = [c for c in travels if c.payload >= SMALLEST_WEIGHT and c.loops]
    scattered = sum(c.times for c in large if c.op == "reduce-scatter")
    assert scattered == 7 * LAYERS, sorted((c.op, c.payload, c.times) for c in travels)
    assert not [c for c in travels if c.op == "all-reduce" and c.payload >= SMALLEST_WEIGHT]


def test_weights_are_gathered_in_bfloat16_once_forward_and_once_backward(program, travels):
    gathers = [c for c in travels if c.op == "all-gather" and c.loops and c.payload >= SMALLEST_WEIGHT]
    assert sum(c.times for c in gathers) == 2 * 7 * LAYERS, sorted((c.payload, c.times) for c in gathers)
    D, F, H = MODEL.model_dim, MODEL.mlp_dim, MODEL.head_dim
    sizes = {2 * D * MODEL.num_heads * H, 2 * D * MODEL.num_kv_heads * H, 2 * D * F}  # bytes, two a weight
    assert {c.payload for c in gathers} == sizes


def test_the_backward_pass_does_not_run_the_forward_kernel_again(program):
    calls = {name: times for name, times in program.kernels().items() if "splash" in name}
    assert sum(times for name, times in calls.items() if "fwd" in name) == LAYERS, calls
    assert sum(times for name, times in calls.items() if "fwd" not in name) == 2 * LAYERS, calls


def test_every_kernel_has_the_time_of_its_schedule_and_the_embedding_that_of_its_bytes(program):
    plan = Estimator(program, make_mesh(RUN.mesh, topology.describe(WRAPPED)), WRAPPED)
    shapes = (2, MODEL.num_heads // 2, T, T, MODEL.num_kv_heads // 2, MODEL.head_dim)  # one row as two groups of heads
    calls = {kernels.KernelCall(phase, *shapes) for phase in kernels.PRODUCTS}
    assert plan.splash_calls() == calls
    plan.kernel_seconds = dict.fromkeys(calls, 1e-3)
    times = plan.step()
    assert times.attention == pytest.approx(3 * LAYERS * 1e-3)
    # The rows of the embedding are looked up, and their gradients added: the bytes of the batch go through the memory.
    looked_up = RUN.global_batch_size * T * MODEL.model_dim // WRAPPED.chips * 4  # all rows, a share of the columns
    assert times.lookups > 2 * looked_up / WRAPPED.chip.hbm_bandwidth


# By default tests/model/llama/test_llama.py, test_each_remat_policy_keeps_what_its_name_says, shows the same of what
# the backward pass is given.
@pytest.mark.slow
def test_full_remat_is_the_policy_that_runs_it_again():
    """The count above can fail: it does when nothing is kept."""
    one = topology.parse("v5p:1x1x1")
    run = dataclasses.replace(
        RUN, mesh=MeshConfig(), global_batch_size=1, compute=dataclasses.replace(RUN.compute, remat="full"),
        model=dataclasses.replace(MODEL, model_dim=256, mlp_dim=512, num_heads=2, num_kv_heads=1),
    )  # fmt: skip
    with TRAINS_SO:
        calls = Program(compile_for(run, one).hlo).kernels()
    assert sum(times for name, times in calls.items() if "fwd" in name) == 2 * LAYERS, calls


STAGES, ROUNDS, MICROBATCHES = 4, 2, 4
PIPELINED = dataclasses.replace(
    RUN,
    model=dataclasses.replace(MODEL, num_layers=STAGES * ROUNDS, num_kv_heads=12),
    mesh=MeshConfig(stage=STAGES, fsdp=16),
    pipeline=PipelineConfig(microbatches=MICROBATCHES, rounds=ROUNDS),
)
ACTIVATIONS = 2 * T * MODEL.model_dim
"""Bytes of a chip's row of one microbatch in bfloat16."""
PIPELINED_WEIGHT = 2 * MODEL.model_dim * 12 * MODEL.head_dim
"""The smallest of a layer, k: larger than the activations, so that sizes tell them apart."""
TICKS = ROUNDS * MICROBATCHES + STAGES - 1
"""The program's loop; whether a stage is idle in a tick is seen at run time only."""


@pytest.fixture(scope="module")
def pipelined():
    from tigerjax.plan.topology import describe

    with TRAINS_SO:
        compiled = compile_for(PIPELINED, WRAPPED, options=dict(flags.read(FLAGS)))
    assert compiled.out_of_memory is None
    return collectives.collectives(Program(compiled.hlo), make_mesh(PIPELINED.mesh, describe(WRAPPED)), WRAPPED)


def test_between_stages_only_activations_travel(pipelined):
    between = [c for c in pipelined if "stage" in c.axis and c.loops]
    handed_on = [c for c in between if c.op == "collective-permute" and c.payload >= ACTIVATIONS]
    assert handed_on, sorted((c.op, c.axis, c.payload, c.times) for c in pipelined)
    assert max(c.payload for c in between) == ACTIVATIONS < PIPELINED_WEIGHT, sorted((c.op, c.payload) for c in between)


def test_gradients_of_a_pipeline_leave_by_reduce_scatter_once_a_tick(pipelined):
    large = [c for c in pipelined if c.loops and c.payload >= PIPELINED_WEIGHT]
    left = [c for c in large if c.op in ("reduce-scatter", "all-reduce")]
    assert {(c.op, c.axis) for c in left} == {("reduce-scatter", "fsdp")}
    assert sum(c.times for c in left) == 7 * TICKS


@pytest.mark.slow
def test_rows_cut_along_their_length_gather_keys_and_values_asynchronously_and_share_the_causal_work():
    """16 shares, two axes of the torus: nothing but a loss or the gradient of a norm waits for other devices."""
    compute = dataclasses.replace(RUN.compute, splash=SplashConfig(fused_backward=True))
    data = dataclasses.replace(RUN.data, seq_len=16384)
    long = dataclasses.replace(
        RUN, compute=compute, data=data, mesh=MeshConfig(fsdp=4, sequence=16), global_batch_size=4
    )
    with TRAINS_SO:
        compiled = compile_for(long, WRAPPED, options=dict(flags.read(FLAGS)))
    assert compiled.out_of_memory is None
    program, mesh = Program(compiled.hlo), make_mesh(long.mesh, topology.describe(WRAPPED))
    travels = [c for c in collectives.collectives(program, mesh, WRAPPED) if c.loops]
    keys = 16384 * MODEL.num_kv_heads * MODEL.head_dim * 2  # bytes of one row
    gathered = [c for c in travels if (c.op, c.axis) == ("all-gather", "sequence") and c.payload >= keys]
    scattered = [c for c in travels if (c.op, c.axis) == ("reduce-scatter", "sequence") and c.payload >= keys]
    # forward and backward gather both, and save_attention computes the products of keys and values again
    assert sum(c.times for c in gathered) == 4 * LAYERS and sum(c.times for c in scattered) == 2 * LAYERS
    assert all(c.asynchronous for c in travels if c.payload >= keys)
    of = Estimator(program, mesh, WRAPPED).splash_call
    calls = [(call, v.times) for v in program.visits() if (call := of(v.where, v.instruction)) is not None]
    assert {call.phase for call, _ in calls} == {"fwd", "dkv"}  # the one backward kernel has 5 products
    counted = sum((2 if call.phase == "fwd" else 5) * math.prod(call[1:5]) * call.head_dim * n for call, n in calls)
    causal = MODEL.num_heads * MODEL.head_dim * 16384 * 16384 * LAYERS * long.global_batch_size / WRAPPED.chips
    assert counted == pytest.approx((2 + 5) * causal)
