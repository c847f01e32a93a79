"""What each remat policy keeps of a block, and what it computes again: read from the traced block, nothing is compiled.

    JAX_PLATFORMS=cpu python benchmarks/tpu/memory_table.py              Llama-2-70B, 2 rows of 4,096 tokens per chip
    JAX_PLATFORMS=cpu python benchmarks/tpu/memory_table.py --layers 32 --dim 4096 --mlp 11008 --heads 32 --kv-heads 32

Bytes are those of bfloat16 activations on one chip, the block's input included. "Run again" is how many of the forward
pass's products with weights the backward pass repeats, as a share. "Kernel" says whether it repeats the attention
kernel's forward pass; tests/train/test_tpu_step.py counts that in the compiled program.
"""

import argparse
import math
from collections.abc import Iterator
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params

from tigerjax.config import ComputeConfig, ModelConfig, Remat, SplashConfig
from tigerjax.model import attention, decoder, stack


def equations(jaxpr: Any) -> Iterator[Any]:
    """Every equation, those of inner functions too, but for the insides of Pallas kernels."""
    for equation in jaxpr.eqns:
        yield equation
        if equation.primitive.name != "pallas_call":
            for inner in jaxprs_in_params(equation.params):
                yield from equations(inner)


def product_flops(jaxpr: Any) -> int:
    total = 0
    for equation in equations(jaxpr):
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
            total += 2 * math.prod(out) * math.prod(left[i] for i in contracted)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = dict(rows=2, seq_len=4096, layers=80, dim=8192, mlp=28672, heads=64, kv_heads=8)
    for name, value in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    a = parser.parse_args()
    model = ModelConfig(
        num_layers=a.layers, model_dim=a.dim, mlp_dim=a.mlp, num_heads=a.heads, num_kv_heads=a.kv_heads, head_dim=128,
        vocab_size=32_000, padded_vocab_size=32_000, rope_base=10_000.0, norm_eps=1e-5,
    )  # fmt: skip
    traced = SplashConfig(interpret=True)  # nothing runs, and no TPU is asked for
    compute = ComputeConfig(attention="splash", remat="none", dtype="bfloat16", loss_chunk_tokens=1, splash=traced)
    block = decoder.Block(model)
    ids_BT = jnp.ones((a.rows, a.seq_len), jnp.int32)

    def attend(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array) -> tuple[jax.Array, None]:
        return attention.attend(q_BTNH, k_BTKH, v_BTKH, ids_BT, compute=compute), None

    def apply(w: Any, x_BTD: jax.Array) -> jax.Array:
        return block.apply({"params": w}, x_BTD, ids_BT, attend)[0]

    x_BTD = jax.ShapeDtypeStruct((a.rows, a.seq_len, a.dim), jnp.bfloat16)
    w_L = jax.eval_shape(lambda key: nn.unbox(decoder.init_stacked(key, block, 1)), jax.random.key(0))
    w = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], jnp.bfloat16), w_L)
    forward = product_flops(jax.make_jaxpr(apply)(w, x_BTD).jaxpr)

    def gradient(remat: Remat) -> Any:
        def summed(w: Any, x_BTD: Any) -> Any:
            return jnp.sum(stack.rematerialise(apply, remat)(w, x_BTD).astype(jnp.float32))

        return jax.make_jaxpr(jax.grad(summed, (0, 1)))(w, x_BTD).jaxpr

    plain = gradient("none")
    named: dict[str, int] = {}
    for equation in equations(plain):
        if equation.primitive.name == "name":
            value = equation.outvars[0].aval
            named[equation.params["name"]] = named.get(equation.params["name"], 0) + value.size * value.dtype.itemsize
    block_in, base = x_BTD.size * 2, product_flops(plain)

    print(f"{a.rows} rows of {a.seq_len} tokens per chip, {a.layers} layers of {a.dim} x {a.mlp}\n")
    print("| policy | kept on the chip, MB per layer | GB in all | in host memory, GB | products run again | kernel |")
    print("|---|---|---|---|---|---|")
    for remat in get_args(Remat):
        if remat == "none":
            continue
        away = sum(named[n] for n in stack.OFFLOADED.get(remat, ()))
        kept = sum(named[n] for n in stack.SAVED[remat])
        kept += 0 if stack.BLOCK_IN in stack.OFFLOADED.get(remat, ()) else block_in
        again = (product_flops(gradient(remat)) - base) / forward
        everything = (*stack.SAVED[remat], *stack.OFFLOADED.get(remat, ()))
        twice = "once" if stack.ATTENTION_OUT in everything else "runs again"
        print(
            f"| {remat} | {kept / 1e6:.0f} | {kept * a.layers / 1e9:.1f} | {away * a.layers / 1e9:.1f} |"
            f" {again:.0%} | {twice} |"
        )


if __name__ == "__main__":
    main()
