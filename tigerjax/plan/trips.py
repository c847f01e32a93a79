"""How often each loop of a program runs, and what a step consists of when loops are multiplied out.

A `while` of optimised HLO does not say how often it runs. So its counters are run here, and nothing else of the loop.
Bound and step are read from the text: not every loop counts by 1 (windowed einsums count by 2), and a bound may be an
element of the carried tuple.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tigerjax.plan.hlo import Computation, Instruction, Module, branches, kernel_name, parse

MAX_TRIPS = 1_000_000


class Unknown(Exception):
    """The value of a scalar depends on data."""


class _Scalars:
    """Evaluates integer scalars of one computation. `arguments` are the parameters whose values are known."""

    def __init__(self, module: Module, computation: Computation, arguments: dict[int, Any]):
        self.module, self.computation, self.arguments = module, computation, arguments
        self._values: dict[str, Any] = {}

    def value(self, name: str) -> Any:
        """An int, a bool, or a dict of known tuple elements. Raises Unknown.

        Each instruction is evaluated once: along a chain of fusions that read one another twice, its time would double
        with each."""
        if name not in self._values:
            try:
                self._values[name] = self._value(name)
            except Unknown as error:
                self._values[name] = error
        if isinstance(value := self._values[name], Unknown):
            raise Unknown(*value.args)
        return value

    def _value(self, name: str) -> Any:
        i = self.computation.instructions[name]
        op, args = i.opcode, i.operands
        if op == "parameter":
            return self._known(self.arguments, int(i.literal))
        if op == "constant":
            literal = i.literal.strip("{} ")
            if literal in ("true", "false"):
                return literal == "true"
            if re.fullmatch(r"-?\d+", literal):
                return int(literal)
            raise Unknown(i.name)
        if op == "get-tuple-element":
            index = int(i.attribute("index") or 0)
            source = self.computation.instructions[args[0]]
            if source.opcode == "tuple":
                return self.value(source.operands[index])
            return self._known(self.value(args[0]), index)
        if op in ("copy", "bitcast", "convert", "reshape", "broadcast", "copy-done", "copy-start", "opt-barrier"):
            return self.value(args[0])
        if op in ("fusion", "call"):
            inner = self.module.computations[(i.called("calls") or i.called("to_apply"))[0]]
            known: dict[int, Any] = {}
            for k, arg in enumerate(args):
                try:
                    known[k] = self.value(arg)
                except Unknown:
                    continue
            return _Scalars(self.module, inner, known).value(inner.root.name)
        if op in ARITHMETIC:
            return ARITHMETIC[op](*(self.value(a) for a in args))
        if op == "compare":
            a, b = (self.value(arg) for arg in args)
            return COMPARE[i.attribute("direction") or ""](a, b)
        raise Unknown(i.name)

    def _known(self, values: Any, index: int) -> Any:
        if not isinstance(values, dict) or index not in values:
            raise Unknown(f"element {index}")
        return values[index]


ARITHMETIC: dict[str, Any] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "maximum": max,
    "minimum": min,
    "and": lambda a, b: a & b,
    "or": lambda a, b: a | b,
    "not": lambda a: not a,
    "select": lambda p, a, b: a if p else b,
}
COMPARE: dict[str, Any] = {
    "LT": lambda a, b: a < b,
    "LE": lambda a, b: a <= b,
    "GT": lambda a, b: a > b,
    "GE": lambda a, b: a >= b,
    "EQ": lambda a, b: a == b,
    "NE": lambda a, b: a != b,
}


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int:
    """How often `loop` runs, a while inside `computation`. Only its counters are run.

    ValueError where the count depends on data.
    """
    (condition,), (body,) = (map(module.computations.get, loop.called(k)) for k in ("condition", "body"))
    assert condition is not None and body is not None, loop
    init = computation.instructions[loop.operands[0]]
    outer = _Scalars(module, computation, {})
    state: dict[int, Any] = {}
    for k, name in enumerate(init.operands if init.opcode == "tuple" else ()):
        try:
            state[k] = outer.value(name)
        except (Unknown, KeyError):
            continue
    counters, result = _counters(condition), body.root
    if result.opcode != "tuple":
        raise ValueError(f"{loop.name}: the body ends in {result.opcode}, not in a tuple")
    state = {k: v for k, v in state.items() if k in counters or _unchanged(body, k)}
    for trips in range(MAX_TRIPS):
        try:
            if not _Scalars(module, condition, {0: state}).value(condition.root.name):
                return trips
            inside = _Scalars(module, body, {0: state})
            stepped = {k: inside.value(result.operands[k]) for k in counters}
        except Unknown as error:
            raise ValueError(f"trip count of {loop.name} depends on data ({error})") from error
        if stepped == {k: state[k] for k in counters}:
            break
        state |= stepped
    raise ValueError(f"{loop.name} does not end")


def _counters(condition: Computation) -> set[int]:
    """The elements of the carried tuple that the condition reads."""
    return {
        int(i.attribute("index") or 0)
        for i in condition.instructions.values()
        if i.opcode == "get-tuple-element" and condition.instructions[i.operands[0]].opcode == "parameter"
    }


def _unchanged(body: Computation, k: int) -> bool:
    """Whether the body returns element k of the carried tuple unchanged."""
    i = body.instructions[body.root.operands[k]]
    while i.opcode in ("copy", "bitcast"):
        i = body.instructions[i.operands[0]]
    return i.opcode == "get-tuple-element" and int(i.attribute("index") or 0) == k


class Visit(NamedTuple):
    """An instruction of the computation `where`, which runs `times` a step."""

    where: Computation
    instruction: Instruction
    times: int
    loops: tuple[str, ...]
    """Names of the loops around it, outermost first."""


class Program:
    """A module, with the trip count of each of its loops."""

    def __init__(self, text: str):
        self.module = parse(text)

    @functools.cached_property
    def trips(self) -> dict[str, int]:
        """The trip count of every while, by its name."""
        return {
            i.name: trip_count(self.module, c, i)
            for c in self.module.computations.values()
            for i in c.instructions.values()
            if i.opcode == "while"
        }

    @functools.cached_property
    def cycles(self) -> int:
        """The estimated cycles of a step: loops times their trips, and of a conditional the longest branch."""
        return self._cycles(self.module.entry)

    def _cycles(self, name: str) -> int:
        return sum(self.cycles_of(i) for i in self.module.computations[name].instructions.values())

    def cycles_of(self, i: Instruction) -> int:
        """The cycles of one instruction, with what it calls on the core."""
        if i.opcode == "while":
            return self.trips[i.name] * sum(self._cycles(c) for k in ("condition", "body") for c in i.called(k))
        if i.opcode == "call":
            return sum(self._cycles(c) for c in i.called("to_apply") or i.called("calls"))
        if i.opcode == "conditional":
            return max(self._cycles(c) for c in branches(i))
        return i.cycles

    def visits(self) -> Iterator[Visit]:
        """Every scheduled instruction of a step, with those inside loops and calls, but not inside fusions."""
        yield from self._visits(self.module.entry, 1, ())

    def _visits(self, name: str, times: int, loops: tuple[str, ...]) -> Iterator[Visit]:
        where = self.module.computations[name]
        for i in where.instructions.values():
            yield Visit(where, i, times, loops)
            if i.opcode == "while":
                for body in i.called("body"):
                    yield from self._visits(body, times * self.trips[i.name], (*loops, i.name))
            elif i.opcode == "call":
                for inner in i.called("to_apply") or i.called("calls"):
                    yield from self._visits(inner, times, loops)
            elif i.opcode == "conditional":
                longest = max(branches(i), key=self._cycles)
                yield from self._visits(longest, times, loops)

    def kernels(self, wanted: Callable[[Instruction], bool] = lambda i: True) -> dict[str, int]:
        """Pallas kernels by name, with how often each runs in a step; those that are `wanted`."""
        counts: dict[str, int] = {}
        for visit in self.visits():
            i = visit.instruction
            if i.opcode == "custom-call" and i.attribute("custom_call_target") == "tpu_custom_call" and wanted(i):
                name = kernel_name(i)
                counts[name] = counts.get(name, 0) + visit.times
        return counts
