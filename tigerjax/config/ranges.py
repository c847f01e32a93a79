"""The ranges of the numbers in configs, declared in the type of each field and checked when a config is built.

    class OptimConfig:
        peak_lr: Annotated[float, Range(0, 1, above=True)]

        def __post_init__(self) -> None:
            check(self, "optim.")

A number without a range cannot be checked, so `check` refuses to work for a class that has one.
"""

import dataclasses
import functools
import numbers
import types
import typing
from typing import Annotated, Any, Literal

from tigerjax.errors import ConfigError

INT32 = 2**31 - 1
"""Devices count in int32."""


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The numbers from `least` to `most`, both included unless `above` and `below` say otherwise. NaN is in none."""

    least: float
    most: float
    above: bool = False
    """`least` itself is too little."""
    below: bool = False
    """`most` itself is too much."""

    def __contains__(self, value: float) -> bool:
        """False for NaN, which is neither small nor large enough."""
        enough = value > self.least if self.above else value >= self.least
        return bool(enough and (value < self.most if self.below else value <= self.most))

    def __str__(self) -> str:
        """`at least 1 and below 2^31`"""
        low = f"{'above' if self.above else 'at least'} {self.least:g}"
        if self.most == INT32:
            return f"{low} and below 2^31"
        if self.most == 2**32 - 1:
            return f"{low} and below 2^32"
        return f"{low} and {'below' if self.below else 'at most'} {_short(self.most)}"


def _short(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


Count = Annotated[int, Range(1, INT32)]
CountOrZero = Annotated[int, Range(0, INT32)]
MOST_ANSWERS = 128
Answers = Annotated[int, Range(1, MOST_ANSWERS)]
"""Answers that one request, or one question of a conversation, may ask for: each has a slot of its own in memory."""
RecordMb = Annotated[float, Range(0, 1e6, above=True)]
Pieces = Annotated[int, Range(260, 2**24)]
"""Entries of a tokenizer: the 256 bytes, three controls and at least one more; float32 scores count to 2^24."""
Seed = Annotated[int, Range(0, 2**32 - 1)]
Share = Annotated[float, Range(0, 1)]
PositiveShare = Annotated[float, Range(0, 1, above=True)]
Factor = Annotated[float, Range(0, 1e6)]
"""A weight or coefficient that may be 0. One above a million is a slip [our choice]."""
PositiveFactor = Annotated[float, Range(0, 1e6, above=True)]


class Allowed(typing.NamedTuple):
    """What a field may hold."""

    kind: Any
    """int, float, bool or a Literal."""
    range: Range | None
    optional: bool
    """Whether None is a value."""
    many: bool
    """Whether the field is a tuple or list of such values."""

    def why_not(self, value: Any) -> str:
        """What the value must be, where it is not; else an empty text."""
        if value is None and self.optional:
            return ""
        or_none = ", or None" if self.optional else ""
        if typing.get_origin(self.kind) is Literal:
            choices = typing.get_args(self.kind)
            return "" if value in choices else f"one of {', '.join(map(str, choices))}{or_none}"
        if self.kind is bool:
            return "" if isinstance(value, bool) else f"True or False{or_none}"
        whole, abstract = ("a whole number ", numbers.Integral) if self.kind is int else ("", numbers.Real)
        fits = isinstance(value, abstract) and not isinstance(value, bool)
        assert self.range is not None
        return "" if fits and typing.cast(float, value) in self.range else f"{whole}{self.range}{or_none}"


def check(config: Any, prefix: str) -> None:
    """ConfigError for the first field that holds a number outside its range, or another kind of value than declared.

    `prefix` stands before the field's name in the message, such as `optim.`.
    """
    cls: Any = type(config)
    for name, allowed in fields(cls).items():
        value = getattr(config, name)
        items = value if allowed.many and isinstance(value, tuple | list) else [value]
        for item in items:
            if needed := allowed.why_not(item):
                raise ConfigError(f"{prefix}{name}={value!r} must be {needed}")


@functools.cache
def fields(config: type) -> dict[str, Allowed]:
    """The fields of a config dataclass that hold numbers, switches or words of a fixed list.

    TypeError for a number without a Range.
    """
    found = {}
    for name, kind in typing.get_type_hints(config, include_extras=True).items():
        allowed = _allowed(kind)
        if allowed is None:
            continue
        if allowed.kind in (int, float) and allowed.range is None:
            raise TypeError(f"{config.__name__}.{name} is a number without a Range; annotate it")
        found[name] = allowed
    return found


def range_of(kind: Any) -> Range | None:
    """The Range in a type such as `Annotated[int, Range(…)] | None`."""
    allowed = _allowed(kind)
    return None if allowed is None else allowed.range


def _allowed(kind: Any, optional: bool = False, many: bool = False, range: Range | None = None) -> Allowed | None:
    """What a type allows; None for a type that is not checked here, such as a path."""
    if marks := getattr(kind, "__metadata__", ()):
        range = next((mark for mark in marks if isinstance(mark, Range)), range)
        return _allowed(kind.__origin__, optional, many, range)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        known = [one for one in inner if one is not type(None)]
        return _allowed(known[0], type(None) in inner, many, range) if len(known) == 1 else None
    if origin in (tuple, list) and inner:
        return _allowed(inner[0], optional, True, range)
    if kind in (int, float, bool) or origin is Literal:
        return Allowed(kind, range, optional, many)
    return None
