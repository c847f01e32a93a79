"""Reads the optimised and scheduled HLO of `compiled.as_text()`: computations, loops, cycles, kernels.

What one has to know of the text (libtpu 0.0.42.1 and 0.0.52):
- most fusions have `estimated_cycles`; Pallas kernels, collectives and asynchronous copies have none;
- the body of a loop is there once, and `while` does not say how often it runs: trips.py computes that;
- an instruction may go on over several lines, and such a line may start with `}`.
"""

import re
from typing import NamedTuple

HEADER = re.compile(r"^(ENTRY )?%([\w.\-]+) \(.*\{\s*$")
INSTRUCTION = re.compile(r"^\s+(ROOT )?%([\w.\-]+) = (.*)$", re.DOTALL)
OPCODE = re.compile(r"([a-z][a-z0-9\-]*)\(")
COMMENT = re.compile(r"/\*.*?\*/")
NAME = re.compile(r"%([\w.\-]+)")
CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')
CALLED = re.compile(r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)=")
ARRAY = re.compile(r"\b(pred|[suf]\d+|bf16|c\d+|f8\w+|[su]4)\[([\d,]*)\]")


class Instruction(NamedTuple):
    """One instruction. `shape` and `attributes` are text, `operands` are names; `literal` is the text of a constant."""

    name: str
    opcode: str
    shape: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    root: bool

    @property
    def cycles(self) -> int:
        """The compiler's own estimate; 0 where it gives none."""
        match = CYCLES.search(self.attributes)
        return int(match[1]) if match else 0

    def called(self, kind: str) -> list[str]:
        """The computations in the attribute `kind`, such as body, condition, calls, branch_computations."""
        match = re.search(rf"\b{kind}=(\{{[^}}]*\}}|%[\w.\-]+)", self.attributes)
        return NAME.findall(match[1]) if match else []

    def attribute(self, kind: str) -> str | None:
        """The text of a plain attribute, such as `index` or `direction`; None where it is absent."""
        match = re.search(rf"\b{kind}=([\w\"]+)", self.attributes)
        return match[1].strip('"') if match else None


class Computation(NamedTuple):
    """A named list of instructions, in the order of the schedule."""

    name: str
    instructions: dict[str, Instruction]

    @property
    def root(self) -> Instruction:
        return next((i for i in self.instructions.values() if i.root), list(self.instructions.values())[-1])

    @property
    def parameters(self) -> list[Instruction]:
        given = [i for i in self.instructions.values() if i.opcode == "parameter"]
        return sorted(given, key=lambda i: int(i.literal))


class Module(NamedTuple):
    """A whole program: its computations by name, and the name of the one that it starts with."""

    computations: dict[str, Computation]
    entry: str


def parse(text: str) -> Module:
    """The module of an HLO text. ValueError where no entry computation is found."""
    computations: dict[str, Computation] = {}
    entry: str | None = None
    current: dict[str, Instruction] | None = None
    lines: list[str] = []

    def flush() -> None:
        if lines and current is not None:
            made = _instruction("\n".join(lines))
            if made is not None:
                current[made.name] = made
        lines.clear()

    for line in text.splitlines():
        if (header := HEADER.match(line)) is not None:
            flush()
            current = {}
            computations[header[2]] = Computation(header[2], current)
            entry = header[2] if header[1] else entry
        elif INSTRUCTION.match(line):
            flush()
            lines.append(line)
        elif lines and line != "}":  # a continued instruction; a lone brace closes the computation
            lines.append(line)
    flush()
    if entry is None:
        raise ValueError(f"no ENTRY computation in an HLO text of {len(text)} characters")
    return Module(computations, entry)


def _instruction(text: str) -> Instruction | None:
    match = INSTRUCTION.match(COMMENT.sub("", text))
    if match is None:
        return None
    rest = match[3]
    # The shape: a tuple in balanced parentheses, or a word without spaces.
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    opcode = OPCODE.search(rest, end)
    if opcode is None:
        return None
    close = _closing(rest, opcode.end() - 1)
    inside = rest[opcode.end() : close]
    return Instruction(
        name=match[2],
        opcode=opcode[1],
        shape=rest[:end].strip(),
        operands=tuple(NAME.findall(inside)),
        literal=inside.strip(),
        attributes=rest[close + 1 :],
        root=match[1] is not None,
    )


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    return len(text) - 1


def shape_bytes(shape: str) -> list[int]:
    """Bytes of each array in the text of a shape, in order. Layouts are ignored, so padding to tiles is not counted."""
    sizes = []
    for dtype, dims in ARRAY.findall(shape):
        bits = 8 if dtype == "pred" else int(re.sub(r"\D.*", "", dtype.lstrip("bfsuc")) or 8)
        count = 1
        for dim in filter(None, dims.split(",")):
            count *= int(dim)
        sizes.append(count * bits // 8)
    return sizes


def branches(i: Instruction) -> list[str]:
    """The computations that a conditional chooses from."""
    return i.called("branch_computations") or i.called("true_computation") + i.called("false_computation")


def kernel_name(i: Instruction) -> str:
    """The name of a Pallas kernel, or that of its instruction without the number where the text has none."""
    match = re.search(r'"?kernel_name"?\s*[=:]\s*"([^"]+)"', i.attributes)
    return match[1] if match else re.sub(r"\.\d+$", "", i.name)
