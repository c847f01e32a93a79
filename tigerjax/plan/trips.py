"""How often each loop of a program runs, and what a step is made of when loops are counted.

A `while` of optimised HLO carries no trip count. Its counters are run here, alone: the condition's bound and the
body's step are read as they stand (windowed einsums step by 2; a bound may be an element of the carried tuple).
"""

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from tigerjax.plan.hlo import Computation, Instruction, Module, branches, kernel_name, parse

MAX_TRIPS = 1_000_000


class Unknown(Exception):
    """A scalar that depends on data."""


class _Scalars:
    """Evaluates integer scalars of one computation, given what is known of its parameters."""

    def __init__(self, module: Module, computation: Computation, arguments: dict[int, Any]):
        self.module, self.computation, self.arguments = module, computation, arguments

    def value(self, name: str) -> Any:
        """An int, a bool, or a dict of known tuple elements. Raises Unknown."""
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
    """Times that `loop` (a while inside `computation`) runs, by running its counters alone.

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
    """Tuple elements that the condition reads."""
    return {
        int(i.attribute("index") or 0)
        for i in condition.instructions.values()
        if i.opcode == "get-tuple-element" and condition.instructions[i.operands[0]].opcode == "parameter"
    }


def _unchanged(body: Computation, k: int) -> bool:
    """Whether the body hands element k on as it came."""
    i = body.instructions[body.root.operands[k]]
    while i.opcode in ("copy", "bitcast"):
        i = body.instructions[i.operands[0]]
    return i.opcode == "get-tuple-element" and int(i.attribute("index") or 0) == k


class Visit(NamedTuple):
    """An instruction that runs `times` a step, inside the computation `where`."""

    where: Computation
    instruction: Instruction
    times: int
    loops: tuple[str, ...]
    """Names of the loops around it, outermost first."""


class Program:
    """A module with its loops counted once."""

    def __init__(self, text: str):
        self.module = parse(text)

    @functools.cached_property
    def trips(self) -> dict[str, int]:
        """Trip count of every while, by its name."""
        return {
            i.name: trip_count(self.module, c, i)
            for c in self.module.computations.values()
            for i in c.instructions.values()
            if i.opcode == "while"
        }

    @functools.cached_property
    def cycles(self) -> int:
        """Estimated cycles of a step: loops times their trips, of a conditional its longest branch."""
        return self._cycles(self.module.entry)

    def _cycles(self, name: str) -> int:
        return sum(self.cycles_of(i) for i in self.module.computations[name].instructions.values())

    def cycles_of(self, i: Instruction) -> int:
        """Of one instruction, with what it calls on the core itself."""
        if i.opcode == "while":
            return self.trips[i.name] * sum(self._cycles(c) for k in ("condition", "body") for c in i.called(k))
        if i.opcode == "call":
            return sum(self._cycles(c) for c in i.called("to_apply") or i.called("calls"))
        if i.opcode == "conditional":
            return max(self._cycles(c) for c in branches(i))
        return i.cycles

    def visits(self) -> Iterator[Visit]:
        """Every scheduled instruction of a step, loops and calls entered, fusions not."""
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

    def kernels(self) -> dict[str, int]:
        """Pallas kernels by name, with their calls a step."""
        counts: dict[str, int] = {}
        for visit in self.visits():
            i = visit.instruction
            if i.opcode == "custom-call" and i.attribute("custom_call_target") == "tpu_custom_call":
                name = kernel_name(i)
                counts[name] = counts.get(name, 0) + visit.times
        return counts
