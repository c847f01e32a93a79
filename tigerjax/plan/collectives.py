"""What travels between devices in a step: each collective, its mesh axis, its bytes and its time on the torus."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from tigerjax.plan.hlo import Computation, Instruction, shape_bytes
from tigerjax.plan.topology import Topology
from tigerjax.plan.trips import Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
UPDATE = "custom-call-update"
DCN = "send"
"""What we call a message to another slice, over the data-centre network. It is a pair of `send` and `recv` in the HLO,
handed to the host, whose attributes say what all slices do together with it."""
BETWEEN_SLICES = {
    "ALL_REDUCE": "all-reduce",
    "REDUCE_SCATTER": "reduce-scatter",
    "ALL_GATHER": "all-gather",
    "ALL_TO_ALL": "all-to-all",
    "ONE_TO_ONE": "collective-permute",
}
"""What `_xla_megascale_transfer_type` of a message calls the collectives."""
STARTS = ("async-start", "call-start", UPDATE)
"""What an asynchronous call begins with: libtpu 0.0.42.1 writes the first two, libtpu 0.0.52 also the third."""
CHAIN_ENDS = {"AsyncCollectiveStart": "start", "AsyncCollectiveDone": "done"}
IN_CHAIN = "async_collective_fusion_config"
"""The marks of a collective that the core itself drives, a piece at a time, while it computes: it is there once in a
fusion that starts it, once in each fusion that drives it, and once in the fusion that waits for its end."""


class Collective(NamedTuple):
    """One collective of the program. Bytes are of one device and one run; it runs `times` a step."""

    name: str
    op: str
    axis: str
    """Mesh axes that it crosses, joined by +; "none" when every group is one device."""
    group: int
    """Devices in a group."""
    payload: int
    """Bytes of the whole array: gathered output, or the input that is reduced or exchanged."""
    sent: float
    """Bytes that leave a device, by the ring algorithm."""
    seconds: float
    """Its time when nothing else uses the links."""
    asynchronous: bool
    times: int = 1
    loops: tuple[str, ...] = ()
    """Names of the loops around it, outermost first."""
    way: str = ""
    """The one direction of the torus in which all bytes go, such as 0+: from every chip to its neighbour along axis 0.
    Empty where more links are used."""


def groups_of(text: str, devices: int) -> list[list[int]]:
    """The groups of devices in a collective's attributes, as positions in the flattened mesh. Where the text names no
    group, all devices are one.

    There are four spellings (libtpu 0.0.42.1 and 0.0.52):

        {{0,2},{1,3}}    [2,2]<=[2,2]T(1,0)    mesh['a'=2,'b'=2] {'a'}    source_target_pairs={{0,1},{1,0}}
    """
    if pairs := re.search(r"source_target_pairs=\{(\{.*?\})\}", text):
        return [[int(n) for n in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", pairs[1])]
    if iota := re.search(r"replica_groups=(\[[\d,]+\]<=\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _iota(iota[1]).tolist()
    if named := re.search(r"replica_groups=mesh\[(.*?)\](?:, device_ids=\((.*?)\))? \{(.*?)\}", text):
        axes = [(name, int(size)) for name, size in re.findall(r"'(\w+)'=(\d+)", named[1])]
        sizes = [size for _, size in axes]
        order = np.arange(int(np.prod(sizes))) if not named[2] else _iota(_plain(named[2], sizes)).reshape(-1)
        wanted = re.findall(r"'(\w+)'(?::\((\d+)\)(\d+))?", named[3])
        return _over_axes(order, axes, wanted)
    if plain := re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", text):
        return [[int(n) for n in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", plain[1])]
    return [list(range(devices))]


def _plain(device_ids: str, sizes: Sequence[int]) -> str:
    """The iota over all devices that a mesh's device_ids stand for: `[4]<=[2,2]T(1,0)` for `[2,2]T(1,0)`."""
    return f"[{int(np.prod(sizes))}]<={device_ids.replace(' ', '')}"


def _iota(text: str) -> np.ndarray:
    """The array that `[groups,size]<=[dims]T(order)` means: 0, 1, 2 … in shape dims, transposed, then reshaped."""
    match = re.fullmatch(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert match is not None, text
    shape, dims = ([int(n) for n in part.split(",")] for part in (match[1], match[2]))
    array = np.arange(int(np.prod(dims))).reshape(dims)
    if match[3]:
        array = array.transpose([int(n) for n in match[3].split(",")])
    return array.reshape(shape)


def _over_axes(
    order: np.ndarray, axes: list[tuple[str, int]], wanted: Iterable[tuple[str, str, str]]
) -> list[list[int]]:
    """Groups whose devices differ along the `wanted` axes of a named mesh. A part of an axis is 'name':(before)size."""
    shape: list[int] = []
    inside: list[bool] = []
    parts = {name: (before, size) for name, before, size in wanted}
    for name, size in axes:
        if name in parts and parts[name][0]:
            before, part = int(parts[name][0]), int(parts[name][1])
            shape += [before, part, size // before // part]
            inside += [False, True, False]
        else:
            shape.append(size)
            inside.append(name in parts)
    array = order.reshape(shape)
    outer = [k for k, within in enumerate(inside) if not within]
    inner = [k for k, within in enumerate(inside) if within]
    size = int(np.prod([shape[k] for k in inner]))
    return array.transpose(outer + inner).reshape(-1, size).tolist()


def axis_name(groups: list[list[int]], mesh: Mesh) -> str:
    """Mesh axes along which the devices of any one group differ, joined by +."""
    coordinates = [np.unravel_index(g, mesh.devices.shape) for g in groups]
    varies = [name for k, name in enumerate(mesh.axis_names) if any(len(set(c[k].tolist())) > 1 for c in coordinates)]
    return "+".join(varies) or "none"


class Links:
    """How fast groups of devices talk on a torus, from the coordinates of the described devices.

    The two devices of a TPU7x have the same coordinates: they share the links of their chip, and talk to each other
    through the die.
    """

    def __init__(self, topology: Topology, mesh: Mesh):
        self.chip, self.shape, self.wrap = topology.chip, topology.shape, topology.wrap
        flat = list(mesh.devices.flat)
        self.coordinates = [tuple(d.coords)[: len(self.shape)] for d in flat]
        self.slices = [getattr(d, "slice_index", None) or 0 for d in flat]

    def crosses_slices(self, group: Sequence[int]) -> bool:
        """Whether devices of more than one slice are in the group, so that bytes go over the data-centre network."""
        return len({self.slices[k] for k in group}) > 1

    def extents(self, group: Sequence[int]) -> list[tuple[int, bool]]:
        """(chips, closed ring) along each torus axis on which the group's devices differ."""
        out = []
        for axis, size in enumerate(self.shape):
            extent = len({self.coordinates[k][axis] for k in group})
            if extent > 1:
                out.append((extent, self.wrap[axis] and extent == size))
        return out

    def chips(self, group: Sequence[int]) -> int:
        """How many chips the group's devices are on."""
        return len({(self.slices[k], self.coordinates[k]) for k in group})

    def share(self, group: Sequence[int]) -> float:
        """What part of its chip's links the collective has.

        All of them when every device of the chip is in the group: an array that both devices need enters the chip once.
        Half of them when the group holds one device of a TPU7x, because the other device runs the same collective in
        its own group at the same time.
        """
        return len(group) / self.chips(group) / self.chip.devices

    def ring_bandwidth(self, group: Sequence[int]) -> float:
        """Bytes per second into a device when rings run over every torus axis of the group at once.

        A ring runs both ways where the axis closes (the compiler's 6 colours on a whole 4x4x4). An open line is as fast
        as one link, one way. Devices of one chip talk through the die.
        """
        if self.crosses_slices(group):
            return self.chip.dcn_bandwidth * self.share(group)
        axes = self.extents(group)
        if not axes:
            return self.chip.die_bandwidth or np.inf
        return self.share(group) * sum(self.chip.link_bandwidth * (2 if closed else 1) for _, closed in axes)

    def hops(self, source: int, target: int) -> int:
        """The number of links between two devices, the shorter way round closed axes; 0 on the same chip."""
        total = 0
        for a, b, size, closed in zip(
            self.coordinates[source], self.coordinates[target], self.shape, self.wrap, strict=True
        ):
            step = abs(a - b)
            total += min(step, size - step) if closed else step
        return total

    def way(self, pairs: Sequence[Sequence[int]]) -> str:
        """The direction of a permutation that moves every array by one link, all the same way; else empty."""
        moves = set()
        for source, target in pairs:
            apart = zip(self.coordinates[source], self.coordinates[target], self.shape, self.wrap, strict=True)
            moved = [(axis, (b - a) % n if ring else b - a) for axis, (a, b, n, ring) in enumerate(apart) if a != b]
            moves.add(tuple((axis, step if step in (1, -1) else step - self.shape[axis]) for axis, step in moved))
        if len(moves) != 1 or len(move := moves.pop()) != 1 or move[0][1] not in (1, -1):
            return ""
        return f"{move[0][0]}{'+' if move[0][1] > 0 else '-'}"

    def seconds(self, op: str, groups: list[list[int]], payload: int) -> float:
        """Time of a collective that has the links to itself."""
        if op == "collective-permute":
            return self._permute(groups, payload)
        group = max(groups, key=len)
        n = len(group)
        if n == 1:
            return 0.0
        axes = self.extents(group)
        if op == "all-to-all" and self.crosses_slices(group):
            return payload * (n - 1) / n / (self.chip.dcn_bandwidth / self.chip.devices)
        if op == "all-to-all" and axes:
            # A chip's bytes travel a quarter of a closed axis on average, over two links per chip: extent / 8.
            # On an open line the middle link carries twice that. Each device of a chip sends bytes of its own.
            longest = max(extent / (8 if closed else 4) for extent, closed in axes)
            return payload * longest / (self.chip.link_bandwidth / self.chip.devices)
        # The ring is one of chips: what both devices of a chip need crosses a link once. On one chip it is of devices.
        chips = self.chips(group)
        return sent_bytes(op, chips if chips > 1 else n, payload) / self.ring_bandwidth(group)

    def _permute(self, pairs: list[list[int]], payload: int) -> float:
        moving = [(s, t) for s, t in pairs if s != t]
        if not moving:
            return 0.0
        if any(self.slices[s] != self.slices[t] for s, t in moving):
            return payload / (self.chip.dcn_bandwidth / self.chip.devices)
        # All devices shift alike, so a link carries as many messages as a message has hops, from each device of a chip.
        hops = max(self.hops(s, t) for s, t in moving)
        if hops == 0:
            return payload / (self.chip.die_bandwidth or np.inf)
        return payload * hops / (self.chip.link_bandwidth / self.chip.devices)


def sent_bytes(op: str, n: int, payload: int) -> float:
    """Bytes that leave each of n devices: a ring passes (n - 1) / n of the array, twice for an all-reduce."""
    if op == "collective-permute":
        return float(payload)
    return payload * (n - 1) / n * (2 if op == "all-reduce" else 1)


def collectives(program: Program, mesh: Mesh, topology: Topology) -> list[Collective]:
    """Every collective of a step, in the order of the schedule."""
    links = Links(topology, mesh)
    return [
        describe(visit.instruction.name, i, op, asynchronous, mesh, links)._replace(
            times=visit.times, loops=visit.loops
        )
        for visit in program.visits()
        for i, op, asynchronous in inside(program, visit.where, visit.instruction)
    ]


def inside(program: Program, where: Computation, i: Instruction) -> Iterator[tuple[Instruction, str, bool]]:
    """The collectives of `i`, a scheduled instruction of `where`, as (collective, op, asynchronous).

    The instruction may be a collective itself, or a fusion or an asynchronous call with collectives inside.
    """
    if (op := _kind(i)) is not None:
        yield i, op, i.opcode.endswith("-start") or op == DCN
    elif i.opcode in STARTS or i.opcode == "fusion":
        part = chain_part(program, i)
        if part is not None and part[0] != "start":
            return
        # An update takes the data to send; the start before it, which names the computation, only prepares.
        caller = where.instructions[i.operands[0]] if i.opcode == UPDATE else i
        for name in caller.called("calls") or caller.called("to_apply") or caller.called("called_computations"):
            for k in program.module.computations[name].instructions.values():
                if (op := _kind(k)) is not None:
                    # libtpu writes a fused reduce-scatter as an all-reduce of which each device keeps its slice.
                    sliced = op == "all-reduce" and name.startswith("all-reduce-scatter")
                    yield k, "reduce-scatter" if sliced else op, i.opcode in STARTS or part is not None


def chain_part(program: Program, i: Instruction) -> tuple[str, str] | None:
    """What a fusion does for a collective that the core drives while it computes: (start, drive or done; the name of
    the collective's chain). None for every other instruction."""
    if i.opcode != "fusion":
        return None
    inner = [k for name in i.called("calls") for k in program.module.computations[name].instructions.values()]
    for k in inner:
        if _kind(k) is not None and IN_CHAIN in k.attributes:
            chain = re.search(r'chain_id="(\w+)"', k.attributes)
            ends = [CHAIN_ENDS.get(other.attribute("custom_call_target") or "") for other in inner]
            return next((end for end in ends if end is not None), "drive"), chain[1] if chain else ""
    return None


def _kind(i: Instruction) -> str | None:
    if i.opcode == "recv" and "is_host_transfer=true" in i.attributes:
        return DCN
    plain = i.opcode.removesuffix("-start")
    return plain if plain in KINDS else None


def describe(name: str, i: Instruction, op: str, asynchronous: bool, mesh: Mesh, links: Links) -> Collective:
    """One run of the collective `i`. `name` is that of the scheduled instruction, which may hold `i` inside."""
    if op == DCN:
        kind, n = _between_slices(i)
        payload = shape_bytes(i.shape)[0] * (n if kind == "reduce-scatter" else 1)
        sent = sent_bytes(kind, n, payload)
        seconds = sent / (links.chip.dcn_bandwidth / links.chip.devices)
        # The devices that exchange are named by slice; `data` is the axis that crosses slices.
        return Collective(name, op, "data", n, payload, sent, seconds, asynchronous)
    groups = groups_of(i.attributes, mesh.size)
    n = len(groups[0])
    sizes = shape_bytes(i.shape)
    if i.opcode == "all-gather-start":  # (inputs, outputs)
        payload = sum(sizes[len(sizes) // 2 :])
    elif i.opcode == "collective-permute-start":  # (input, output, two semaphores)
        payload = sizes[0]
    elif i.opcode == "reduce-scatter":
        payload = sum(sizes) * n
    else:
        payload = sum(sizes)
    return Collective(
        name=name,
        op=op,
        axis=axis_name(groups, mesh),
        group=2 if op == "collective-permute" else n,
        payload=payload,
        sent=sent_bytes(op, n, payload),
        seconds=links.seconds(op, groups, payload),
        asynchronous=asynchronous,
        way=links.way(groups) if op == "collective-permute" else "",
    )


def _between_slices(i: Instruction) -> tuple[str, int]:
    """What slices do with a message: (the collective, how many slices take part).

    The text names the slices of a group as `"{1,2}x{0:7}"`, or one device of each: `{{100000,200000},{100001,200001}}`.
    """
    op = BETWEEN_SLICES[i.attribute("_xla_megascale_transfer_type") or ""]
    if op == "collective-permute":
        return op, 2
    (group,) = re.findall(r'_xla_megascale_target=[{"]+([\d,]+)\}', i.attributes)
    return op, group.count(",") + 1


def by_axis(every: Iterable[Collective]) -> list[dict[str, Any]]:
    """What `--json` calls `collectives`: the sums of a step by (op, axis, asynchronous), most bytes first."""
    sums: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for c in every:
        row = sums.setdefault(
            (c.op, c.axis, c.asynchronous),
            {"op": c.op, "axis": c.axis, "bytes": 0.0, "async": c.asynchronous, "count": 0, "seconds": 0.0},
        )
        row["bytes"] += c.sent * c.times
        row["count"] += c.times
        row["seconds"] += c.seconds * c.times
    return sorted(sums.values(), key=lambda row: -row["bytes"])
