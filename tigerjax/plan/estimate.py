"""From a compiled program to the time of a step: the compiler's cycles, and our own arithmetic where it gives none.

The schedule of one device is walked once, in order, with one clock for the core and one for each set of links:

    core   an instruction with cycles        cycles / clock
           a splash kernel                   its matrix products / (peak x an assumed share of it), or what its own
                                             schedule says (`kernels.seconds`)
           a synchronous collective          waits for its links, then bytes / bandwidth; all of it is exposed
    links  an asynchronous collective        runs from its start on; what is left at its `done` is exposed
           a copy to or from host memory     the same, at the host's bandwidth

A loop's body is walked once and counts as often as it runs.
"""

import math
from typing import NamedTuple

from jax.sharding import Mesh

from tigerjax.config import Extras
from tigerjax.plan import collectives, kernels
from tigerjax.plan.collectives import Collective, Links
from tigerjax.plan.hlo import ARRAY, Computation, Instruction, branches, kernel_name, shape_bytes
from tigerjax.plan.topology import Topology
from tigerjax.plan.trips import Program

ATTENTION_SHARE = (0.5, 0.75)
"""Share of the bfloat16 peak that splash kernels reach, (pessimistic, optimistic). It is our assumption, not a
measurement. A published Llama-2-70B step on v5p (23.7 s, 692 tokens/s/chip, 4 rows of 4,096 per chip) is 1.4 s longer
than the compiler's 22.3 s for the same program. Its attention kernels hold 0.86 (one backward kernel) to 1.05 s (two)
of products at peak, so the share is 0.61 to 0.75 if nothing else makes the difference."""

HOST_MEMORY = "S(5)"
"""What a layout contains when the array is in the host's memory."""


class Times(NamedTuple):
    """Seconds of a step, or of one walk through a computation."""

    static: float = 0.0
    """What the compiler estimates."""
    attention: float = 0.0
    """Splash kernels."""
    exposed: float = 0.0
    """The core waits for links."""
    transfers: float = 0.0
    """All collectives, whether work hides them or not."""
    host: float = 0.0
    """All copies to and from host memory, whether work hides them or not."""

    @property
    def total(self) -> float:
        return self.static + self.attention + self.exposed

    def plus(self, other: "Times", times: int = 1) -> "Times":
        return Times(*(a + times * b for a, b in zip(self, other, strict=True)))


class _Walk:
    """One pass over a computation in schedule order."""

    def __init__(self, estimator: "Estimator", share: float):
        self.e, self.share = estimator, share
        self.now = 0.0
        self.free: dict[str, float] = {}
        self.ends: dict[str, float] = {}
        self.times = Times()

    def _busy(self, field: str, seconds: float) -> None:
        self.now += seconds
        self.times = self.times._replace(**{field: getattr(self.times, field) + seconds})

    def _until(self, end: float) -> None:
        if end > self.now:
            self._busy("exposed", end - self.now)

    def _transfer(self, resource: str, seconds: float) -> float:
        """Puts a transfer on its links, and returns the time at which it is done."""
        end = max(self.now, self.free.get(resource, 0.0)) + seconds
        self.free[resource] = end
        return end

    def run(self, where: Computation) -> Times:
        for i in where.instructions.values():
            self._instruction(where, i)
        return self.times

    def _instruction(self, where: Computation, i: Instruction) -> None:
        if i.opcode in ("while", "call", "conditional"):
            inner = self.e.times_inside(i, self.share)
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
        for c, asynchronous in self.e.collectives_of(where, i):
            self.times = self.times._replace(transfers=self.times.transfers + c.seconds)
            end = self._transfer(c.axis, c.seconds)
            if asynchronous:
                self.ends[i.name] = end
            else:
                self._until(end)
        if i.opcode == "copy-start" and HOST_MEMORY in i.shape:
            seconds = min(shape_bytes(i.shape)[:2]) / self.e.host_bandwidth
            self.times = self.times._replace(host=self.times.host + seconds)
            self.ends[i.name] = self._transfer("host", seconds)
        self._busy("static", i.cycles / self.e.chip.clock_hz)
        self._busy("attention", self.e.attention_seconds(where, i, self.share))


class Estimator:
    """Times of one program on one topology."""

    def __init__(self, program: Program, mesh: Mesh, topology: Topology, window: int | None = None):
        self.extras = Extras(window=window)  # of the model whose attention the kernels compute
        self.kernel_seconds: dict[kernels.KernelCall, float] = {}
        """Of the kernels whose schedules are known; the others get a share of the peak."""
        self.program, self.mesh, self.chip = program, mesh, topology.chip
        # compile_for refuses to offload where the bandwidth is not known, so such a program copies nothing to the host.
        self.host_bandwidth = topology.chip.host_bandwidth or math.inf
        self.links = Links(topology, mesh)
        self.fused_backward = not any("splash" in name and "_dq" in name for name in program.kernels())
        self._inside: dict[tuple[str, float], Times] = {}

    def step(self, share: float) -> Times:
        """A whole step, with splash kernels at `share` of the peak."""
        return self._computation(self.program.module.entry, share)

    def _computation(self, name: str, share: float) -> Times:
        key = (name, share)
        if key not in self._inside:
            self._inside[key] = _Walk(self, share).run(self.program.module.computations[name])
        return self._inside[key]

    def times_inside(self, i: Instruction, share: float) -> Times:
        """Times of a while with all its trips, of a call, or of the longest branch of a conditional."""
        if i.opcode == "while":
            body, condition = (self._computation(i.called(k)[0], share) for k in ("body", "condition"))
            return Times().plus(body.plus(condition), self.program.trips[i.name])
        if i.opcode == "call":
            return self._computation((i.called("to_apply") or i.called("calls"))[0], share)
        return max((self._computation(c, share) for c in branches(i)), key=lambda t: t.total)

    def collectives_of(self, where: Computation, i: Instruction) -> list[tuple[Collective, bool]]:
        """The collectives that `i`, an instruction of `where`, runs or starts, each with whether it is asynchronous."""
        return [
            (collectives.describe(i.name, k, op, asynchronous, self.mesh, self.links), asynchronous)
            for k, op, asynchronous in collectives.inside(self.program, where, i)
        ]

    def attention_seconds(self, where: Computation, i: Instruction, share: float) -> float:
        """Seconds of a splash kernel: by its schedule, or else at `share` of the peak. 0 for what is none."""
        call = self.splash_call(where, i)
        if call is not None and call in self.kernel_seconds:
            return self.kernel_seconds[call]
        return self.attention_flops(where, i) / (share * self.chip.device_flops)

    def attention_flops(self, where: Computation, i: Instruction) -> float:
        """Operations of a splash kernel: causal, so half of all pairs, or what a window leaves of them. 0 for every
        other instruction.

        Where rows are cut along T, a device has the queries of a share and all keys, and again computes half of the
        pairs: see `mesh.balanced_places`."""
        call = self.splash_call(where, i)
        if call is None:
            return 0.0
        products = kernels.PRODUCTS[call.phase] + (self.fused_backward and call.phase == "dkv")
        queries = call.rows * call.heads * call.queries * call.head_dim
        return products * queries * self.extras.seen(call.keys)  # 2 operations x half of the pairs

    def splash_calls(self) -> set[kernels.KernelCall]:
        """The splash kernels of the program."""
        calls = (self.splash_call(visit.where, visit.instruction) for visit in self.program.visits())
        return {call for call in calls if call is not None}

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
