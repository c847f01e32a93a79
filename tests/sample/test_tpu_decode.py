"""The decode program as a TPU gets it: the cache stays where it lies, and every chip works on its own rows."""

import jax
import numpy as np
import pytest

from tigerjax.config import ComputeConfig, MeshConfig, ModelConfig
from tigerjax.mesh import make_mesh, sharding
from tigerjax.model.families import weight_shardings
from tigerjax.plan import topology
from tigerjax.plan.compile import sharded_bytes
from tigerjax.plan.hlo import shape_bytes
from tigerjax.plan.trips import Program
from tigerjax.sample import slots

pytestmark = pytest.mark.tpu

ROWS, BUCKET, ANSWER = 32, 1536, 512
COMPUTE = ComputeConfig(attention="splash", remat="none", dtype="bfloat16", loss_chunk_tokens=1)
DRAW = slots.Draw(0.9, 0.95, 0, (2, 3))


@pytest.fixture(scope="module", params=[2, 1], ids=["grouped", "one query a head"])
def compiled(request):
    """(program, its cache as one chip holds it) of `advance` on 2 x 2 chips of a v5p."""
    config = ModelConfig(
        num_layers=3, model_dim=512, mlp_dim=1536, num_heads=8, num_kv_heads=8 // request.param, head_dim=128,
        vocab_size=2000, padded_vocab_size=2048, rope_base=10_000.0, norm_eps=1e-5,
    )  # fmt: skip
    mesh = make_mesh(MeshConfig(data=2, tensor=2), topology.describe(topology.parse("v5p:2x2x1")))

    def of(a, s, dtype=None):
        return jax.ShapeDtypeStruct(a.shape, dtype or a.dtype, sharding=s)

    cut = weight_shardings(config, "llama", mesh)
    weights = jax.tree.map(lambda a, s: of(a, s, jax.numpy.bfloat16), shapes(config), cut)
    state = jax.eval_shape(lambda: slots.empty(config, COMPUTE, ROWS, BUCKET + ANSWER, ANSWER, None))
    state = jax.tree.map(of, state, slots.shardings(mesh))
    enough = jax.ShapeDtypeStruct((), np.int32, sharding=sharding(mesh))
    with jax.default_matmul_precision("default"), jax.set_mesh(mesh):
        lowered = slots.advance.lower(weights, state, enough, config=config, compute=COMPUTE, draw=DRAW, mesh=mesh)
        return lowered.compile(), state.cache


def shapes(config):
    import flax.linen as nn

    from tigerjax.model import decoder
    from tigerjax.model.layers import init

    return jax.eval_shape(lambda: nn.unbox(init(decoder.LanguageModel(config, COMPUTE), jax.random.key(0))))


def test_the_cache_is_neither_copied_nor_gathered(compiled):
    """A scatter in every layer made XLA:TPU keep a second cache in another layout, and copy it once a step."""
    program, cache = compiled
    held = sharded_bytes(cache)
    assert program.memory_analysis().temp_size_in_bytes < held / 4
    for computation in Program(program.as_text()).module.computations.values():
        for i in computation.instructions.values():
            if i.opcode in ("copy", "all-gather", "all-to-all", "transpose"):
                assert max(shape_bytes(i.shape), default=0) < held / 2 / 3, i  # a layer's keys or values


def test_the_layers_write_nothing_row_by_row(compiled):
    """Rows are written one by one after the layers: 2 loops of this chip's rows in a step, whatever the layers."""
    program, _ = compiled
    text = Program(program.as_text())
    rows = [c for c in text.module.computations.values() for i in c.instructions.values() if i.opcode == "while"]
    assert len(rows) <= 5  # decode, layers, keys, values, the search of a wide nucleus
    assert "scatter(" not in "".join(line for line in program.as_text().splitlines() if "bf16[" in line)
