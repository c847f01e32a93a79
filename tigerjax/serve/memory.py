"""Keys and values of beginnings that were read before, in blocks of `chunk` tokens, the least recently used go first.

A block is named by all tokens from the beginning of the prompt to its own end. So a block is found only behind exactly
the tokens that it was computed behind, and a conversation that continues finds all of its earlier turns.
"""

import functools
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from tigerjax import mesh as mesh_axes
from tigerjax.model import cache as kv


class Memory:
    """Blocks on the device, and their names on the host."""

    def __init__(self, like: kv.Cache, mesh: Mesh | None, *, chunk: int, size: int):
        """Takes the room for at most `size` bytes on the device, held as `like` is. Fewer than a block takes: nothing
        is kept."""
        self.chunk, self._mesh = chunk, mesh
        self.block_bytes = sum(
            one.nbytes // (one.shape[1] * slots) * chunk
            for part, slots in ((like.keys, like.keys[0].shape[4]), (like.values, like.values[0].shape[3]))
            for one in jax.tree.leaves(part)
        )
        self.blocks = size // self.block_bytes
        self.hits = self.misses = 0
        """Blocks of prompts that were found, and that were not."""
        self._at: OrderedDict[bytes, int] = OrderedDict()
        self._free = list(range(self.blocks))
        self._held = self._room(like) if self.blocks else None

    def _room(self, like: kv.Cache) -> kv.Cache:
        def of(axis: int, one: jax.Array) -> jax.Array:
            shape = list(one.shape)
            shape[1], shape[axis] = self.blocks, self.chunk
            return jnp.zeros(shape, one.dtype)

        def room() -> kv.Cache:
            return kv.over_tokens(of, like)._replace(lengths_B=jnp.zeros(0, jnp.int32))

        if self._mesh is None:
            return room()
        made: kv.Cache = jax.jit(room, out_shardings=_shardings(self._mesh, len(like.keys), "kept"))()
        return made

    def known(self, ids: Sequence[int]) -> int:
        """How many of a prompt's first tokens are kept. Its last token does not count: the model must read that one."""
        names = list(self._names(ids[: len(ids) - 1]))
        count = next((n for n, name in enumerate(names) if name not in self._at), len(names))
        self.hits += count
        self.misses += len(names) - count
        return count * self.chunk

    def recall(self, cache: kv.Cache, row: int, ids: Sequence[int]) -> kv.Cache:
        """`cache`, in whose row the kept beginning of `ids` is; their number is what `known` gave."""
        assert self._held is not None
        names = list(self._names(ids))
        for n, name in enumerate(names):
            place, start = np.int32(self._at[name]), np.int32(n * self.chunk)
            cache = _recall(cache, self._held, place, np.int32(row), start, mesh=self._mesh)
        self._used(names)
        return cache

    def keep(self, cache: kv.Cache, row: int, ids: Sequence[int]) -> None:
        """Keeps the whole blocks of `ids`, which the row of the cache holds."""
        if self._held is None:
            return
        names = list(self._names(ids))[: self.blocks]
        for n, name in enumerate(names):
            if name in self._at:
                self._at.move_to_end(name)
                continue
            place = self._free.pop() if self._free else self._at.popitem(last=False)[1]
            self._at[name] = place
            start = np.int32(n * self.chunk)
            self._held = _keep(self._held, cache, np.int32(place), np.int32(row), start, mesh=self._mesh)
        self._used(names)

    def warm(self, prompt: kv.Cache, slots: kv.Cache) -> kv.Cache:
        """Compiles what these two caches need, as long as nothing is kept; the first one, unchanged in what is read."""
        if self._held is None or self._at:
            return prompt
        nowhere = np.int32(0)
        for cache in (prompt, slots):
            self._held = _keep(self._held, cache, nowhere, nowhere, nowhere, mesh=self._mesh)
        return _recall(prompt, self._held, nowhere, nowhere, nowhere, mesh=self._mesh)

    def _used(self, names: Sequence[bytes]) -> None:
        """The beginning is the most recently used: without it, what stands behind it cannot be found."""
        for name in reversed(names):
            self._at.move_to_end(name)

    def _names(self, ids: Sequence[int]) -> Iterator[bytes]:
        """The names of the whole blocks of `ids`, in order."""
        hashed = hashlib.blake2b(digest_size=16)
        for start in range(0, len(ids) - self.chunk + 1, self.chunk):
            hashed.update(np.asarray(ids[start : start + self.chunk], np.int32).tobytes())
            yield hashed.copy().digest()


def _shardings(mesh: Mesh, stacks: int, kind: str) -> kv.Cache:
    """Rows of a batch are split over devices, blocks are not: each may go to any row."""
    rows = None if kind == "kept" else "batch"
    heads = (mesh_axes.sharding(mesh, None, rows, "act_kv_heads"),) * stacks
    return kv.Cache._make([heads, heads, mesh_axes.sharding(mesh, rows), None])


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _recall(
    cache: kv.Cache, held: kv.Cache, place: jax.Array, row: jax.Array, start: jax.Array, *, mesh: Mesh | None
) -> kv.Cache:
    """`cache` with one block in its row, from the slot `start` on."""
    made = _copied(cache, held, (place, jnp.int32(0)), (row, start))
    return made if mesh is None else jax.lax.with_sharding_constraint(made, _shardings(mesh, len(made.keys), "rows"))


@functools.partial(jax.jit, static_argnames="mesh", donate_argnums=0)
def _keep(
    held: kv.Cache, cache: kv.Cache, place: jax.Array, row: jax.Array, start: jax.Array, *, mesh: Mesh | None
) -> kv.Cache:
    """The other way round."""
    made = _copied(held, cache, (row, start), (place, jnp.int32(0)))
    return made if mesh is None else jax.lax.with_sharding_constraint(made, _shardings(mesh, len(made.keys), "kept"))


def _copied(
    into: kv.Cache, source: kv.Cache, at: tuple[jax.Array, jax.Array], to: tuple[jax.Array, jax.Array]
) -> kv.Cache:
    """`into` with one block of the source. `at` and `to` are the row and the slot in each of the two."""
    chunk = min(into.keys[0].shape[4], source.keys[0].shape[4])

    def move(axis: int, new: jax.Array, old: jax.Array) -> jax.Array:
        def starts(row: jax.Array, slot: jax.Array) -> list[jax.Array]:
            place = [jnp.int32(0)] * 5
            place[1], place[axis] = row, slot
            return place

        size = list(new.shape)
        size[1], size[axis] = 1, chunk
        return jax.lax.dynamic_update_slice(new, jax.lax.dynamic_slice(old, starts(*at), size), starts(*to))

    return kv.over_tokens(move, into, source)
