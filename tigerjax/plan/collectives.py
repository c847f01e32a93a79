"""What travels between chips in a step: each collective, its mesh axis, its bytes and its time on the torus."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from tigerjax.plan.hlo import Instruction, shape_bytes
from tigerjax.plan.topology import Topology
from tigerjax.plan.trips import Program

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")
STARTS = ("async-start", "call-start")


class Collective(NamedTuple):
    """One collective of the program. Bytes are of one chip and one run; it runs `times` a step."""

    name: str
    op: str
    axis: str
    """Mesh axes that it crosses, joined by +; "none" when every group is one chip."""
    group: int
    """Chips in a group."""
    payload: int
    """Bytes of the whole array: gathered output, or the input that is reduced or exchanged."""
    sent: float
    """Bytes that leave a chip, by the ring algorithm."""
    seconds: float
    """On links that nothing else uses."""
    asynchronous: bool
    times: int = 1
    loops: tuple[str, ...] = ()
    """Names of the loops around it, outermost first."""


def groups_of(text: str, devices: int) -> list[list[int]]:
    """Device groups of a collective's attributes; positions in the flattened mesh. All devices where none is named.

    Knows the four spellings of libtpu 0.0.42.1:

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
    """`[2,2]T(1,0)` of a mesh's device_ids as an iota over all of them: `[4]<=[2,2]T(1,0)`."""
    return f"[{int(np.prod(sizes))}]<={device_ids.replace(' ', '')}"


def _iota(text: str) -> np.ndarray:
    """`[groups,size]<=[dims]T(order)`: iota over dims, transposed, cut into groups."""
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
    """Groups that vary over the wanted axes of a named mesh; a part of an axis is 'name':(before)size."""
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
    """Mesh axes along which the chips of any one group differ, joined by +."""
    coordinates = [np.unravel_index(g, mesh.devices.shape) for g in groups]
    varies = [name for k, name in enumerate(mesh.axis_names) if any(len(set(c[k].tolist())) > 1 for c in coordinates)]
    return "+".join(varies) or "none"


class Links:
    """Bandwidth of a group of chips on its torus, from the coordinates of the described devices."""

    def __init__(self, topology: Topology, mesh: Mesh):
        self.chip, self.shape, self.wrap = topology.chip, topology.shape, topology.wrap
        flat = list(mesh.devices.flat)
        self.coordinates = [tuple(d.coords)[: len(self.shape)] for d in flat]
        self.slices = [getattr(d, "slice_index", None) or 0 for d in flat]

    def crosses_slices(self, group: Sequence[int]) -> bool:
        """Whether chips of more than one slice are in the group, so that bytes leave by the data-centre network."""
        return len({self.slices[k] for k in group}) > 1

    def extents(self, group: Sequence[int]) -> list[tuple[int, bool]]:
        """(chips, closed ring) along each torus axis on which the group's chips differ."""
        found = []
        for axis, size in enumerate(self.shape):
            extent = len({self.coordinates[k][axis] for k in group})
            if extent > 1:
                found.append((extent, self.wrap[axis] and extent == size))
        return found

    def ring_bandwidth(self, group: Sequence[int]) -> float:
        """Bytes a second into a chip when rings run over every torus axis of the group at once, both ways where the
        axis closes (the compiler's 6 colours on a whole 4x4x4). An open line is as fast as one link, one way."""
        if self.crosses_slices(group):
            return self.chip.dcn_bandwidth
        return sum(self.chip.link_bandwidth * (2 if closed else 1) for _, closed in self.extents(group)) or np.inf

    def hops(self, source: int, target: int) -> int:
        """Links between two chips, the shorter way round closed axes."""
        total = 0
        for a, b, size, closed in zip(
            self.coordinates[source], self.coordinates[target], self.shape, self.wrap, strict=True
        ):
            step = abs(a - b)
            total += min(step, size - step) if closed else step
        return total

    def seconds(self, op: str, groups: list[list[int]], payload: int) -> float:
        """Time of a collective that has the links to itself."""
        if op == "collective-permute":
            return self._permute(groups, payload)
        group = max(groups, key=len)
        n = len(group)
        if n == 1:
            return 0.0
        if op == "all-to-all":
            if self.crosses_slices(group):
                return payload * (n - 1) / n / self.chip.dcn_bandwidth
            # A chip's bytes travel a quarter of a closed axis on average, over two links a chip: extent / 8.
            # On an open line the middle link carries twice that.
            longest = max(extent / (8 if closed else 4) for extent, closed in self.extents(group))
            return payload * longest / self.chip.link_bandwidth
        return sent_bytes(op, n, payload) / self.ring_bandwidth(group)

    def _permute(self, pairs: list[list[int]], payload: int) -> float:
        moving = [(s, t) for s, t in pairs if s != t]
        if not moving:
            return 0.0
        if any(self.slices[s] != self.slices[t] for s, t in moving):
            return payload / self.chip.dcn_bandwidth
        # All chips shift alike, so a link carries as many messages as a message has hops.
        return payload * max(self.hops(s, t) for s, t in moving) / self.chip.link_bandwidth


def sent_bytes(op: str, n: int, payload: int) -> float:
    """Bytes that leave each of n chips: a ring passes (n - 1) / n of the array, twice for an all-reduce."""
    if op == "collective-permute":
        return float(payload)
    return payload * (n - 1) / n * (2 if op == "all-reduce" else 1)


def collectives(program: Program, mesh: Mesh, topology: Topology) -> list[Collective]:
    """Every collective of a step, in schedule order."""
    links = Links(topology, mesh)
    return [
        describe(visit.instruction.name, i, op, asynchronous, mesh, links)._replace(
            times=visit.times, loops=visit.loops
        )
        for visit in program.visits()
        for i, op, asynchronous in inside(program, visit.instruction)
    ]


def inside(program: Program, i: Instruction) -> Iterator[tuple[Instruction, str, bool]]:
    """(collective, op, asynchronous) of one scheduled instruction: itself, or what the fusion or the asynchronous
    call that it is holds inside."""
    if (op := _kind(i)) is not None:
        yield i, op, i.opcode.endswith("-start")
    elif i.opcode in STARTS or i.opcode == "fusion":
        for name in i.called("calls") or i.called("to_apply"):
            for k in program.module.computations[name].instructions.values():
                if (op := _kind(k)) is not None:
                    # libtpu writes a fused reduce-scatter as an all-reduce of which each chip keeps its slice.
                    sliced = op == "all-reduce" and name.startswith("all-reduce-scatter")
                    yield k, "reduce-scatter" if sliced else op, i.opcode in STARTS


def _kind(i: Instruction) -> str | None:
    plain = i.opcode.removesuffix("-start")
    return plain if plain in KINDS else None


def describe(name: str, i: Instruction, op: str, asynchronous: bool, mesh: Mesh, links: Links) -> Collective:
    """One run of the collective `i`, which the schedule knows by `name`."""
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
    )


def by_axis(found: Iterable[Collective]) -> list[dict[str, Any]]:
    """Sums of a step by (op, axis, asynchronous), most bytes first: what `--json` calls `collectives`."""
    sums: dict[tuple[str, str, bool], dict[str, Any]] = {}
    for c in found:
        row = sums.setdefault(
            (c.op, c.axis, c.asynchronous),
            {"op": c.op, "axis": c.axis, "bytes": 0.0, "async": c.asynchronous, "count": 0, "seconds": 0.0},
        )
        row["bytes"] += c.sent * c.times
        row["count"] += c.times
        row["seconds"] += c.seconds * c.times
    return sorted(sums.values(), key=lambda row: -row["bytes"])
