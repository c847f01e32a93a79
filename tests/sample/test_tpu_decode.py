"""The decode program as a TPU gets it: the cache stays where it lies, and every chip works on its own rows."""

import collections
import dataclasses

import jax
import numpy as np
import pytest

from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig
from tigerjax.mesh import make_mesh, sharding
from tigerjax.model import cache as kv
from tigerjax.model.families import weight_shardings
from tigerjax.plan import topology
from tigerjax.plan.compile import sharded_bytes
from tigerjax.plan.estimate import Estimator, is_uncounted, says_what_it_moves
from tigerjax.plan.hlo import kernel_name, shape_bytes
from tigerjax.plan.trips import Program
from tigerjax.sample import paging, slots

pytestmark = pytest.mark.tpu

ROWS, BUCKET, ANSWER = 32, 1536, 512
COMPUTE = ComputeConfig(attention="splash", remat="none", dtype="bfloat16", loss_chunk_tokens=1)
DRAW = slots.Draw(0.9, 0.95, 0, (2, 3))


KINDS = {
    "grouped": (2, "off", None),
    "ungrouped": (1, "off", None),
    "kernels": (2, "on", None),
    "pages": (2, "on", ROWS * (BUCKET + ANSWER) // 2),
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS)
def compiled(request):
    """(program, its cache as one chip holds it, what times it) of `advance` on 2 x 2 chips of a v5p."""
    groups, kernels, tokens = request.param
    compute = dataclasses.replace(COMPUTE, decode_kernels=kernels)
    config = ModelConfig(
        num_layers=3, model_dim=512, mlp_dim=1536, num_heads=8, num_kv_heads=8 // groups, head_dim=128,
        vocab_size=2000, padded_vocab_size=2048, rope_base=10_000.0, norm_eps=1e-5,
    )  # fmt: skip
    where = topology.parse("v5p:2x2x1")
    mesh = make_mesh(MeshConfig(data=2, tensor=2), topology.describe(where))

    def of(a, s, dtype=None):
        return jax.ShapeDtypeStruct(a.shape, dtype or a.dtype, sharding=s)

    cut = weight_shardings(config, "llama", mesh)
    weights = jax.tree.map(lambda a, s: of(a, s, jax.numpy.bfloat16), shapes(config), cut)
    form = paging.in_pages(kv.PLAIN, tokens, ROWS, BUCKET + ANSWER, 2)
    state = jax.eval_shape(lambda: slots.empty(config, COMPUTE, ROWS, BUCKET + ANSWER, ANSWER, None, form))
    state = jax.tree.map(of, state, slots.shardings(mesh, form))
    enough = jax.ShapeDtypeStruct((), np.int32, sharding=sharding(mesh))
    with jax.default_matmul_precision("default"), jax.set_mesh(mesh):
        lowered = slots.advance.lower(weights, state, enough, config=config, compute=compute, draw=DRAW, mesh=mesh)
        program = lowered.compile()
    return program, state.cache, Estimator(Program(program.as_text()), mesh, where)


def shapes(config):
    import flax.linen as nn

    from tigerjax.model import decoder
    from tigerjax.model.layers import init

    return jax.eval_shape(lambda: nn.unbox(init(decoder.LanguageModel(config, COMPUTE), jax.random.key(0))))


def test_the_cache_is_neither_copied_nor_gathered(compiled):
    """A scatter in every layer made XLA:TPU keep a second cache in another layout, and copy it once a step."""
    program, cache, _ = compiled
    held = sharded_bytes(cache)
    assert program.memory_analysis().temp_size_in_bytes < held / 4
    for computation in Program(program.as_text()).module.computations.values():
        for i in computation.instructions.values():
            if i.opcode in ("copy", "all-gather", "all-to-all", "transpose"):
                assert max(shape_bytes(i.shape), default=0) < held / 2 / 3, i  # a layer's keys or values


def test_the_layers_write_nothing_row_by_row(compiled):
    """Rows are written one by one after the layers: 2 loops of this chip's rows in a step, whatever the layers."""
    program, *_ = compiled
    text = Program(program.as_text())
    rows = [c for c in text.module.computations.values() for i in c.instructions.values() if i.opcode == "while"]
    assert len(rows) <= 5  # decode, layers, keys, values, the search of a wide nucleus
    assert "scatter(" not in "".join(line for line in program.as_text().splitlines() if "bf16[" in line)


def test_the_layers_run_in_kernels_whose_bytes_the_plan_counts(compiled, request):
    _, cache, estimator = compiled
    everywhere = estimator.program.module.computations.values()
    kernels = [i for c in everywhere for i in c.instructions.values() if says_what_it_moves(i)]
    kind = request.node.callspec.id
    attention = "decode_attention_pages" if kind == "pages" else "decode_attention"
    layer = {"decode_norm": 2, "decode_product": 6, attention: 1}  # q, k, v, o, gate with up, down
    assert collections.Counter(kernel_name(i).split(".")[0] for i in kernels) == (
        layer if kind in ("kernels", "pages") else {}
    )
    bandwidth = topology.parse("v5p:2x2x1").chip.hbm_bandwidth
    for i in kernels:
        assert not is_uncounted(i)
        if kernel_name(i).startswith("decode_attention"):  # and the first block, for which the core waits
            # In pages there is room for half of what rows at their longest read.
            of_layer = sharded_bytes((cache.keys, cache.values)) / 3 * (2 if kind == "pages" else 1)
            assert 0.9 < estimator.moved_seconds(i) * bandwidth / of_layer < 1.5
