"""How a test calls the function of a program that runs in another process: `jail` runs this file in both.

Only plain data go through the pipes between them, so the program cannot say that its test has passed: it never runs
where the test runs. A function that one side hands to the other stays where it is; the other side gets a function that
asks for it through the pipe. Objects of classes have no form here. The test ends where it hands one over, and where it
looks into one that the program returned; whoever started it then says so, by the name of the task.
"""

import builtins
import decimal
import fractions
import json
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

PASSED, NOT_PLAIN, OBJECT = 42, 43, 45
"""Exit codes of the tester: the test has passed; it hands over an object; it looks into an object that it was given."""
MOST_VALUES = 100_000
"""Taken from an iterator that is returned."""
ITERATORS: Any = (
    map,
    filter,
    zip,
    enumerate,
    reversed,
    types.GeneratorType,
    type(iter([])),
    type(iter(())),
)
VIEWS: Any = (type({}.keys()), type({}.values()), type({}.items()))
EXACT: dict[str, type] = {"Fraction": fractions.Fraction, "Decimal": decimal.Decimal}


class Opaque:
    """An object that the other process returned. It equals nothing that is plain, and cannot be looked into."""

    def __eq__(self, other: object) -> bool:
        if other is not None and type(other).__module__ not in ("builtins", __name__):
            os._exit(OBJECT)
        return False

    __hash__ = object.__hash__

    def _refuse(self, *_: Any) -> Any:
        os._exit(OBJECT)

    __getattr__ = __getitem__ = __iter__ = __len__ = __call__ = __contains__ = __lt__ = __gt__ = _refuse


class Peer:
    """One of the two processes: it calls functions of the other one and answers the other one's calls."""

    def __init__(self, read: int, write: int, functions: list[Callable[..., Any]]):
        self._in, self._out = os.fdopen(read, "rb"), os.fdopen(write, "wb")
        self.functions = functions
        """What the other one may call, by number."""

    def send(self, message: Any) -> None:
        self._out.write(json.dumps(message).encode() + b"\n")
        self._out.flush()

    def receive(self) -> Any:
        """The next message; None when the other process has ended."""
        line = self._in.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def call(self, number: int, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a function of the other process returns. Lists and dicts are changed as it changed them."""
        self.send({"call": number, "args": self.encode(list(args)), "named": self.encode(named)})
        while (answer := self.receive()) is not None and "call" in answer:
            self.answer(answer)
        if answer is None:
            os._exit(1)
        if "raised" in answer:
            raise _exception(answer)
        for mine, theirs in zip(args, self.decode(answer["args"]), strict=True):
            if isinstance(mine, list):
                mine[:] = theirs
            elif isinstance(mine, dict):
                mine.clear()
                mine.update(theirs)
        return self.decode(answer["returned"])

    def answer(self, call: Any) -> None:
        """Does what the other process asks for, and sends the result."""
        given, named = self.decode(call["args"]), self.decode(call["named"])
        try:
            returned = self.functions[call["call"]](*given, **named)
            message = {"returned": self.encode(returned), "args": self.encode(given)}
        except Exception as error:
            message = {"raised": [kind.__name__ for kind in type(error).__mro__], "message": str(error)}
        self.send(message)

    def encode(self, value: Any) -> Any:
        """A value as JSON has it; an object of a class becomes {"other": its type}."""
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [self.encode(v) for v in value]
        if isinstance(value, dict):
            return {"dict": [[self.encode(k), self.encode(v)] for k, v in value.items()]}
        for kind in (tuple, set, frozenset):
            if isinstance(value, kind):
                return {kind.__name__: [self.encode(v) for v in value]}
        if isinstance(value, bytes | bytearray):
            return {"bytes": value.hex()}
        if isinstance(value, complex):
            return {"complex": [value.real, value.imag]}
        if isinstance(value, range):
            return {"range": [value.start, value.stop, value.step]}
        if isinstance(value, ITERATORS):
            return {"iterator": [self.encode(v) for v, _ in zip(value, range(MOST_VALUES), strict=False)]}
        if isinstance(value, VIEWS):
            return {"view": [self.encode(v) for v in value]}
        if type(value).__name__ in EXACT and isinstance(value, EXACT[type(value).__name__]):
            return {type(value).__name__: str(value)}
        if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
            return self.encode(value.item())
        if isinstance(value, type):
            name = value.__name__
            return {"type": name} if vars(builtins).get(name) is value else {"other": name}
        if isinstance(value, types.FunctionType | types.MethodType | types.BuiltinFunctionType):
            self.functions.append(value)
            return {"function": len(self.functions) - 1}
        return {"other": type(value).__name__}

    def decode(self, value: Any) -> Any:
        """The value again. An object of a class is an `Opaque`."""
        if isinstance(value, list):
            return [self.decode(v) for v in value]
        if not isinstance(value, dict):
            return value
        ((kind, inner),) = value.items()
        if kind == "dict":
            return {self.decode(k): self.decode(v) for k, v in inner}
        if kind == "bytes":
            return bytes.fromhex(inner)
        if kind in ("complex", "range"):
            return complex(*inner) if kind == "complex" else range(*inner)
        if kind == "function":
            number = int(inner)
            return lambda *args, **named: self.call(number, args, named)
        if kind == "type":
            found = getattr(builtins, inner, None)
            return found if isinstance(found, type) else Opaque()
        if kind in EXACT:
            return EXACT[kind](inner)
        many: dict[str, Callable[[list[Any]], Any]] = {"tuple": tuple, "set": set, "frozenset": frozenset}
        many |= {"iterator": iter, "view": lambda values: dict.fromkeys(values).keys()}
        return many[kind](self.decode(inner)) if kind in many else Opaque()


class Tester(Peer):
    """The process with the test. It hands over no objects."""

    def encode(self, value: Any) -> Any:
        coded = super().encode(value)
        if isinstance(coded, dict) and "other" in coded:
            os._exit(NOT_PLAIN)
        return coded


def candidate(read: int, write: int, job: dict[str, str]) -> None:
    """Runs the program, then answers the calls of its function. A program that exits ends the channel."""
    names = _module()
    exec(compile(job["program"], "<program>", "exec"), names)
    peer = Peer(read, write, [names[job["entry_point"]]])
    peer.send({"ready": True})
    while (call := peer.receive()) is not None:
        peer.answer(call)


def tester(read: int, write: int, job: dict[str, str]) -> NoReturn:
    """Runs the test on the function of the other process, and ends with PASSED when it was content."""
    peer = Tester(read, write, [])

    def call(*args: Any, **named: Any) -> Any:
        return peer.call(0, args, named)

    names = _module()
    _run_prompt(job["prompt"], names)
    if peer.receive() != {"ready": True}:
        os._exit(1)
    names[job["entry_point"]] = call
    exec(compile(job["test"], "<test>", "exec"), names)
    names["check"](call)
    os._exit(PASSED)


def _run_prompt(prompt: str, names: dict[str, Any]) -> None:
    """What the prompt defines beside the function, for tests that use it. It may end before the function's body."""
    for text in (prompt, prompt.rstrip() + "\n    pass\n"):
        try:
            code = compile(text, "<prompt>", "exec")
        except SyntaxError:
            continue
        exec(code, names)
        return


def _exception(answer: dict[str, Any]) -> Exception:
    """The built-in exception that is nearest to the one raised there."""
    for name in answer["raised"]:
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(answer["message"])
            except TypeError:  # a UnicodeDecodeError wants five arguments
                continue
    return Exception(answer["message"])


def _module() -> dict[str, Any]:
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    return module.__dict__
