"""The optimised program of a TPU7x multiplies float8 where `compute.quantise` says so. No TPU is needed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from tigerjax.model import low_precision, products
from tigerjax.plan import topology

pytestmark = pytest.mark.tpu

SHAPES = ((2, 256, 512), (512, 1024), (2, 256, 1024))
"""Of the activations, of the matrix, and of the gradient of their product."""
FLOAT8 = ("f8e4m3fn", "f8e4m3fn")


def operands(kind: str) -> dict[str, tuple[str, str]]:
    """By the shape of each matrix product in the optimised program: the types of what is multiplied."""

    def step(x, w, d_y):
        found = low_precision.of_layers({"mlp": {"up": w[None]}}, kind)["mlp"]["up"]
        matrix = low_precision.with_rounded(w, type(found)(found.values[0], found.scales[0]))
        y, pullback = jax.vjp(products.to_hidden, x, matrix)
        d_x, d_matrix = pullback(d_y)
        return y, d_x, d_matrix.weight

    device = topology.describe(topology.parse("tpu7x:2x2x1"))[0]
    one = NamedSharding(Mesh(np.array([device]), ("device",)), PartitionSpec())
    arguments = [jax.ShapeDtypeStruct(shape, jnp.bfloat16) for shape in SHAPES]
    lowered = jax.jit(step, in_shardings=one, out_shardings=one).lower(*arguments)
    text = lowered.compile().as_text()
    types = dict(re.findall(r"%([\w.\-]+) = (\w+)\[", text))
    found = re.findall(r" = \w+\[([\d,]+)\]\S* (?:convolution|dot)\(%([\w.\-]+), %([\w.\-]+)\)", text)
    return {re.sub(r",1$", "", shape): (types[one], types[other]) for shape, one, other in found}


@pytest.mark.parametrize("kind, of_weight", [("fp8", ("bf16", "bf16")), ("fp8_full", FLOAT8)])
def test_products_are_of_float8_and_those_for_the_weight_only_in_fp8_full(kind, of_weight):
    with jax.default_matmul_precision("default"):
        found = operands(kind)
    assert found == {"2,256,1024": FLOAT8, "2,256,512": FLOAT8, "512,1024": of_weight}
