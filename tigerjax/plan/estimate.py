"""From a compiled program to the time of a step: the compiler's cycles, and our own arithmetic where it gives none.

The schedule of one device is walked once, in order, with one clock for the core and one for each set of links (of
permutations that go to a neighbour, one for each way):

    core   an instruction with cycles        cycles / clock
           a splash kernel                   what its own schedule says (`kernels.seconds`)
           another kernel that says what it  those bytes / the memory's bandwidth, or its operations / the peak where
           moves (Pallas' `CostEstimate`)    that is longer
           a gather, scatter or sort         that has no cycles: its bytes / the memory's bandwidth, a floor
           a synchronous collective          waits for its links, then bytes / bandwidth; all of it is exposed
    links  an asynchronous collective        runs from its start on; what is left at its `done` is exposed. The same
                                             for what goes to other slices, over the data-centre network
           a copy to or from host memory     the same, at the host's bandwidth
           a collective that the core drives runs only while a fusion that drives it does; what is left at its `done`
                                             is exposed

A loop's body is walked once and counts as often as it runs.
"""

import math
import re
from typing import NamedTuple

from jax.sharding import Mesh

from tigerjax.plan import collectives, kernels
from tigerjax.plan.collectives import Collective, Links
from tigerjax.plan.hlo import ARRAY, Computation, Instruction, branches, kernel_name, shape_bytes
from tigerjax.plan.topology import Topology
from tigerjax.plan.trips import Program

LOOKUPS = re.compile(r"^(gather|scatter|sort)")
"""The names of instructions that look rows up, add to rows that indices name, or sort such indices."""
HOST_MEMORY = "S(5)"
"""What a layout contains when the array is in the host's memory."""
HOST_COPIES = ("copy-start", "dynamic-slice-start", "dynamic-update-slice-start")
"""What begins a copy to or from the host's memory: of libtpu 0.0.42, and of layers in a stack by libtpu 0.0.52."""
INDEX_BYTES = 8
"""No array of a copy's shape that is so small is what it moves: it is an index, or the handle of the copy."""


COST = {name: re.compile(rf'"{name}":"(\d+)"') for name in ("bytes_accessed", "flops")}
"""Of a kernel's cost estimate in its `backend_config`."""


def says_what_it_moves(i: Instruction) -> bool:
    """Whether `i` is a kernel, not of splash, that came with a cost estimate."""
    if i.opcode != "custom-call" or "splash" in kernel_name(i):
        return False
    return all(pattern.search(i.attributes) for pattern in COST.values())


def is_uncounted(kernel: Instruction) -> bool:
    """Whether a step holds no time of this Pallas kernel."""
    return "splash" not in kernel_name(kernel) and not says_what_it_moves(kernel)


class Times(NamedTuple):
    """Seconds of a step, or of one walk through a computation."""

    static: float = 0.0
    """What the compiler estimates."""
    attention: float = 0.0
    """Splash kernels."""
    lookups: float = 0.0
    """Gathers, scatters and sorts without cycles, such as those of the embedding."""
    moved: float = 0.0
    """Kernels that say what they move."""
    exposed: float = 0.0
    """The core waits for links."""
    transfers: float = 0.0
    """All collectives, whether work hides them or not."""
    host: float = 0.0
    """All copies to and from host memory, whether work hides them or not."""

    @property
    def total(self) -> float:
        return self.static + self.attention + self.lookups + self.moved + self.exposed

    def plus(self, other: "Times", times: int = 1) -> "Times":
        return Times(*(a + times * b for a, b in zip(self, other, strict=True)))


class _Walk:
    """One pass over a computation in schedule order."""

    def __init__(self, estimator: "Estimator"):
        self.e = estimator
        self.now = 0.0
        self.free: dict[str, float] = {}
        self.ends: dict[str, float] = {}
        self.left: dict[str, tuple[float, float]] = {}
        """Of the collectives that the core drives, by their chains: the seconds for which they have still to be driven,
        and when their links are done."""
        self.times = Times()

    def _busy(self, field: str, seconds: float) -> None:
        self.now += seconds
        self.times = self.times._replace(**{field: getattr(self.times, field) + seconds})

    def _until(self, end: float) -> None:
        if end > self.now:
            self._busy("exposed", end - self.now)

    def _transfer(self, resource: str, seconds: float, way: str = "") -> float:
        """Puts a transfer on its links, or on those of one way, and returns the time at which it is done."""
        parts = [name for name in self.free if name.split(" ")[0] == resource]
        mine = {resource, f"{resource} {way}"} if way else {resource, *parts}
        end = max(self.now, *(self.free.get(name, 0.0) for name in mine)) + seconds
        self.free[f"{resource} {way}" if way else resource] = end
        return end

    def run(self, where: Computation) -> Times:
        for i in where.instructions.values():
            self._instruction(where, i)
        return self.times

    def _instruction(self, where: Computation, i: Instruction) -> None:
        if i.opcode in ("while", "call", "conditional"):
            inner = self.e.times_inside(i)
            self.times = self.times.plus(inner)
            self.now += inner.total
            return
        if i.opcode.endswith("-done"):
            started = where.instructions.get(i.operands[0]) if i.operands else None
            while started is not None and started.name not in self.ends and started.opcode.endswith("-update"):
                started = where.instructions.get(started.operands[0])
            if started is not None and started.name in self.ends:
                self._until(self.ends.pop(started.name))
            return
        part = self.e.chain_part(i)
        for c, asynchronous in self.e.collectives_of(where, i):
            self.times = self.times._replace(transfers=self.times.transfers + c.seconds)
            end = self._transfer(c.axis, c.seconds, c.way)
            if part is not None:
                self.left[part[1]] = c.seconds, end
                continue
            if asynchronous:
                self.ends[i.name] = end
            else:
                self._until(end)
        if i.opcode in HOST_COPIES and HOST_MEMORY in i.shape:
            # The smallest array, but for indices: of a stack only a part is read or written.
            moved = min((size for size in shape_bytes(i.shape) if size > INDEX_BYTES), default=0)
            seconds = moved / self.e.host_bandwidth
            self.times = self.times._replace(host=self.times.host + seconds)
            self.ends[i.name] = self._transfer("host", seconds)
        self._busy("static", i.cycles / self.e.chip.clock_hz)
        if part is not None:
            self._driven(*part, i.cycles / self.e.chip.clock_hz)
        self._busy("attention", self.e.attention_seconds(where, i))
        self._busy("lookups", self.e.lookup_seconds(where, i))
        self._busy("moved", self.e.moved_seconds(i))

    def _driven(self, does: str, chain: str, seconds: float) -> None:
        """A part of a chain ran for so long; its last part waits for the rest of the collective."""
        left, end = self.left.pop(chain, (0.0, 0.0))
        if does == "done":
            self._until(max(self.now + left - seconds, end))
        else:
            self.left[chain] = left - seconds, end


class Estimator:
    """Times of one program on one topology."""

    def __init__(self, program: Program, mesh: Mesh, topology: Topology):
        self.kernel_seconds: dict[kernels.KernelCall, float] = {}
        """Of one call of each of `splash_calls`. Give them before `step`."""
        self.program, self.mesh, self.chip = program, mesh, topology.chip
        # compile_for refuses to offload where the bandwidth is not known, so such a program copies nothing to the host.
        self.host_bandwidth = topology.chip.host_bandwidth or math.inf
        self.links = Links(topology, mesh)
        self._inside: dict[str, Times] = {}

    def step(self) -> Times:
        """A whole step."""
        return self._computation(self.program.module.entry)

    def _computation(self, name: str) -> Times:
        if name not in self._inside:
            self._inside[name] = _Walk(self).run(self.program.module.computations[name])
        return self._inside[name]

    def times_inside(self, i: Instruction) -> Times:
        """Times of a while with all its trips, of a call, or of the longest branch of a conditional."""
        if i.opcode == "while":
            body, condition = (self._computation(i.called(k)[0]) for k in ("body", "condition"))
            return Times().plus(body.plus(condition), self.program.trips[i.name])
        if i.opcode == "call":
            return self._computation((i.called("to_apply") or i.called("calls"))[0])
        return max((self._computation(c) for c in branches(i)), key=lambda t: t.total)

    def collectives_of(self, where: Computation, i: Instruction) -> list[tuple[Collective, bool]]:
        """The collectives that `i`, an instruction of `where`, runs or starts, each with whether it is asynchronous."""
        return [
            (collectives.describe(i.name, k, op, asynchronous, self.mesh, self.links), asynchronous)
            for k, op, asynchronous in collectives.inside(self.program, where, i)
        ]

    def chain_part(self, i: Instruction) -> tuple[str, str] | None:
        """`collectives.chain_part` of this program."""
        return collectives.chain_part(self.program, i)

    def attention_seconds(self, where: Computation, i: Instruction) -> float:
        """Seconds of a splash kernel; 0 for what is none."""
        call = self.splash_call(where, i)
        return 0.0 if call is None else self.kernel_seconds[call]

    def lookup_seconds(self, where: Computation, i: Instruction) -> float:
        """The least seconds of a gather, scatter or sort to which the compiler gives no cycles; 0 for all else.

        What it writes, and what it reads, goes through the memory once. A gather reads as many bytes as it writes, and
        not its whole table. One on a SparseCore counts as if the core waited for it."""
        if i.cycles or not LOOKUPS.match(i.name) or i.opcode.endswith(("-start", "-done")):
            return 0.0
        written = shape_bytes(i.shape)
        if i.name.startswith("gather"):
            moved = 2 * (written[2] if i.opcode == collectives.UPDATE else sum(written))
        else:
            moved = sum(written) + sum(sum(shape_bytes(where.instructions[name].shape)) for name in i.operands)
        return moved / (self.chip.hbm_bandwidth / self.chip.devices)

    def moved_seconds(self, i: Instruction) -> float:
        """The least seconds of a kernel that says what it moves and computes; 0 for all else."""
        if not says_what_it_moves(i):
            return 0.0
        moved, flops = (int(pattern.findall(i.attributes)[0]) for pattern in COST.values())
        return max(moved / (self.chip.hbm_bandwidth / self.chip.devices), flops / self.chip.device_flops)

    def splash_calls(self) -> set[kernels.KernelCall]:
        """The splash kernels of the program."""
        everywhere = self.program.module.computations.values()
        calls = (self.splash_call(where, i) for where in everywhere for i in where.instructions.values())
        return {call for call in calls if call is not None}

    def splash_runs(self) -> dict[kernels.KernelCall, int]:
        """How often each splash kernel runs in a step."""
        runs: dict[kernels.KernelCall, int] = {}
        for visit in self.program.visits():
            if (call := self.splash_call(visit.where, visit.instruction)) is not None:
                runs[call] = runs.get(call, 0) + visit.times
        return runs

    def splash_call(self, where: Computation, i: Instruction) -> kernels.KernelCall | None:
        """The splash kernel that an instruction calls; None for every other instruction."""
        if i.opcode != "custom-call" or "splash" not in (name := kernel_name(i)):
            return None
        phase = next((phase for phase in kernels.PRODUCTS if f"_{phase}" in name), None)
        if phase is None:
            return None
        # The operands are not named. The first two arrays of numbers among them are the queries and the keys.
        shapes = [
            (dtype, [int(d) for d in dims.split(",") if d])
            for operand in i.operands
            for dtype, dims in ARRAY.findall(where.instructions[operand].shape)
        ]
        queries, keys, *_ = (dims for dtype, dims in shapes if dtype in ("bf16", "f32") and len(dims) > 2)
        *rows, heads, length, head_dim = queries
        return kernels.KernelCall(phase, math.prod(rows), heads, length, keys[-2], keys[-3], head_dim)
