"""Which weights of a model are trained, and the two trees that a training state has of them.

    trained, frozen = selection.split(weights)
    weights = selection.join(trained, frozen)

Both are nested dicts with a part of the paths. Of an embedding or a head that is trained from some entry on, `trained`
has only these entries, and `frozen` has the whole, whose own such entries nobody reads.
"""

import dataclasses
import fnmatch
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from tigerjax.config import FrozenDtype, LoraConfig, ModelConfig, WeightsConfig
from tigerjax.errors import ConfigError, near_miss
from tigerjax.model import adapters, families, quantised
from tigerjax.model.weights import get, leaves, nested

VOCABULARY_AXIS = {"embed": 0, "head": 1}
"""The axis of the vocabulary, of the weights that have one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
    """The weights that are trained. The others are frozen: they get no gradient and no moments, and never change."""

    first: Mapping[str, int]
    """By the path of each trained weight: the first entry of the vocabulary that is trained; 0 is all of the weight."""
    frozen_dtype: FrozenDtype
    lora: LoraConfig

    @property
    def partial(self) -> bool:
        """Whether checkpoints hold the trained weights only. Else they hold all weights, as those of other runs do."""
        return self.lora.rank > 0 or self.frozen_dtype != "float32"

    def held(self, path: str, w: Any) -> Any:
        """A weight as a training state holds it, where all of it is frozen; else as it is. An array on devices stays
        cut as it is."""
        if path in self.first:
            return w
        return self._narrow(path, w)

    def hold(self, frozen: Any) -> dict[str, Any]:
        """A tree of frozen weights, each as a training state holds it."""
        return nested((path, self._narrow(path, w)) for path, w in leaves(frozen))

    def _narrow(self, path: str, w: Any) -> Any:
        if self.frozen_dtype == "float32" or quantised.is_quantised(w):
            return w
        if not _on_devices(w):
            return quantised.held(path, w, self.frozen_dtype)
        cuts = quantised.held_sharding(path, w.sharding, w.shape, self.frozen_dtype)
        return jax.jit(lambda w: quantised.held(path, w, self.frozen_dtype), out_shardings=cuts)(w)

    def held_shardings(self, shardings: Any, shapes: Any) -> dict[str, Any]:
        """The shardings of `hold`, from those of the weights and a tree with their shapes."""
        return nested(
            (path, quantised.held_sharding(path, cut, get(shapes, path).shape, self.frozen_dtype))
            for path, cut in leaves(shardings)
        )

    def split(self, weights: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """(trained, frozen) of a tree of arrays."""

        def entries(leaf: Any, path: str) -> Any:
            first, axis = self.first[path], VOCABULARY_AXIS[path]

            def cut(leaf: Any) -> Any:
                return leaf[first:] if axis == 0 else leaf[:, first:]

            if _on_devices(leaf):
                return jax.jit(cut, out_shardings=_uncut(leaf.sharding, axis))(leaf)
            return cut(leaf)

        return self._split(weights, entries)

    def split_shardings(self, shardings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """(trained, frozen) of a tree of NamedShardings. The entries that are trained are not cut along the vocabulary:
        their number need not divide."""
        return self._split(shardings, lambda cut, path: _uncut(cut, VOCABULARY_AXIS[path]))

    def _split(self, tree: Any, entries: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        trained, frozen = [], []
        for path, leaf in leaves(tree):
            if path not in self.first or self.first[path]:
                frozen.append((path, leaf))
            if path in self.first:
                trained.append((path, entries(leaf, path) if self.first[path] else leaf))
        return nested(trained), nested(frozen)

    def join(self, trained: Any, frozen: Any) -> dict[str, Any]:
        """The whole tree, of arrays. A gradient passes through it to what is trained alone."""
        return nested(
            [
                *leaves(frozen),
                *(
                    (path, self._joined(path, leaf, get(frozen, path)) if self.first[path] else leaf)
                    for path, leaf in leaves(trained)
                ),
            ]
        )

    def plain(self, weights: Any) -> Any:
        """The whole tree, of arrays on devices, with each adapter in its matrix and whole numbers as bfloat16. Nothing
        is copied where there are neither."""
        if not self.partial:
            return weights
        cuts = adapters.without(jax.tree.map(_cut_of, weights, is_leaf=quantised.is_quantised), self.lora)

        def compute(weights: Any) -> Any:
            return adapters.merged(
                jax.tree.map(
                    lambda w: quantised.read(w, jnp.bfloat16) if quantised.is_quantised(w) else w,
                    weights,
                    is_leaf=quantised.is_quantised,
                ),
                self.lora,
            )

        return jax.jit(compute, out_shardings=cuts)(weights)

    def _joined(self, path: str, entries: jax.Array, whole: jax.Array) -> jax.Array:
        """`whole` with its entries from the first trained one on replaced."""
        first, axis = self.first[path], VOCABULARY_AXIS[path]

        def join(entries: jax.Array, whole: jax.Array) -> jax.Array:
            # Chosen entry by entry, which XLA does where the vocabulary is cut over devices, as it is in `whole`.
            before = [(first, 0) if a == axis else (0, 0) for a in range(2)]
            place = jax.lax.broadcasted_iota(jnp.int32, whole.shape, axis)
            return jnp.where(place < first, whole.astype(entries.dtype), jnp.pad(entries, before))

        if _on_devices(whole):
            join = jax.jit(join, out_shardings=whole.sharding)
        return join(entries, whole)


def _cut_of(w: Any) -> Any:
    return w.values.sharding if quantised.is_quantised(w) else w.sharding


def _on_devices(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)


def _uncut(cut: Any, axis: int) -> Any:
    """The sharding of a matrix, with its dimension `axis` whole on every device."""
    if not isinstance(cut, NamedSharding):
        return cut
    return NamedSharding(cut.mesh, PartitionSpec(*(None if a == axis else name for a, name in enumerate(cut.spec))))


def selected(weights: WeightsConfig, lora: LoraConfig, model: ModelConfig, *, reward: bool = False) -> Selection | None:
    """What a run with these settings trains; None: all weights of its language model or, with `reward`, its reward
    model. The score head of a reward model is new, and trained in any case.

    Raises ConfigError for a pattern that names no weight, and where nothing or everything would be trained against the
    settings.
    """
    names = [row.ours for row in families.of(model).hf_rows(model, rows=model.vocab_size, reward=reward)]
    first = _named(weights.trained, names, model)
    if not weights.trained and not lora.rank:
        first = dict.fromkeys(names, 0)
    if reward:
        first["score"] = 0
    for pattern in weights.frozen:
        found = [name for name in _matching(pattern, names, "frozen") if name in first]
        if not found:
            raise ConfigError(
                f"weights.frozen: {pattern!r} names only weights that are not trained anyway; leave it out"
            )
        first = {name: entry for name, entry in first.items() if name not in found}
    if twice := [name for name in first if lora.adapts(name.rpartition("/")[2]) and not first[name]]:
        raise ConfigError(
            f"weights.trained names {twice[0]}, which lora.targets gives an adapter; train one of the two"
        )
    first |= dict.fromkeys(adapters.paths(lora), 0)
    if not first:
        raise ConfigError("weights.frozen leaves nothing to train; name fewer weights there")
    if set(first) >= set(names) and not any(first.values()):
        if weights.frozen_dtype != "float32":
            raise ConfigError(
                f"weights.frozen_dtype={weights.frozen_dtype!r}, but all weights are trained; set lora.rank or"
                " weights.frozen, or leave it out"
            )
        return None
    return Selection(first=first, frozen_dtype=weights.frozen_dtype, lora=lora)


def _named(patterns: tuple[str, ...], names: list[str], model: ModelConfig) -> dict[str, int]:
    """{path: first entry} of the weights that the patterns of `weights.trained` name."""
    found: dict[str, int] = {}
    for pattern in patterns:
        inner = re.fullmatch(r"(.+)\[(\d+):\]", pattern)
        matching = _matching(inner[1] if inner else pattern, names, "trained")
        start = int(inner[2]) if inner else 0
        if inner and (others := [name for name in matching if name not in VOCABULARY_AXIS]):
            raise ConfigError(
                f"weights.trained: {pattern!r} asks for entries of the vocabulary, which {others[0]} does not have;"
                " only embed and head have them"
            )
        if inner and not 0 < start < model.vocab_size:
            raise ConfigError(
                f"weights.trained: {pattern!r} must begin at an entry from 1 to {model.vocab_size - 1}, below"
                f" model.vocab_size={model.vocab_size}"
            )
        if twice := [name for name in matching if found.get(name, start) != start]:
            raise ConfigError(
                f"weights.trained names {twice[0]} twice, from entry {found[twice[0]]} and from entry {start}; give one"
            )
        found |= dict.fromkeys(matching, start)
    return found


def _matching(pattern: str, names: list[str], field: str) -> list[str]:
    found = fnmatch.filter(names, pattern)
    if not found:
        hint = near_miss(pattern, names) or f": {', '.join(names)}"
        raise ConfigError(f"weights.{field}: {pattern!r} names no weight of this model; name one that it has{hint}")
    return found


def flops(trained: Selection | None, model: ModelConfig, *, tokens: float, seq_len: int) -> float:
    """Floating-point operations of a forward and backward pass over `tokens` where this is trained."""
    count = families.of(model).model_flops
    if trained is None:
        return count(model, tokens=tokens, seq_len=seq_len)
    return count(model, tokens=tokens, seq_len=seq_len, trained=trained.first, rank=trained.lora.rank)
