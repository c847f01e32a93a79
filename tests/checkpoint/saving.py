"""A training state of a few numbers, saved and restored by the trainer's own checkpoints."""

import jax
import jax.numpy as jnp
from tiny_run import tiny_config

from tigerjax.checkpoint.model import make_meta
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.state import TrainState

CONFIG = tiny_config()
META = make_meta(kind="llama", model=CONFIG.model, tokenizer_sha256="abc", loader={"index": 5}, data_seed=0)


def small_state(value: float) -> TrainState:
    return TrainState(
        jnp.int32(0), {"embed": jnp.full((8, 4), value)}, ({"mu": jnp.full((8, 4), -value)}, jnp.int32(7))
    )


def abstract(state: TrainState) -> TrainState:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state)


def save(folder, *at: int, keep: int = 9) -> None:
    saver = Checkpointer(folder, keep=keep)
    for step in at:
        saver.save(step, small_state(step), META)
    saver.close()


def restore(folder):
    saver = Checkpointer(folder, keep=9)
    try:
        return saver.restore(abstract(small_state(0)))
    finally:
        saver.close()
