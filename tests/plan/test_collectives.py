"""Which chips talk, along which mesh axis, and how long the torus takes."""

from pathlib import Path

import pytest

from tigerjax.config import MeshConfig
from tigerjax.mesh import make_mesh
from tigerjax.plan import collectives, topology
from tigerjax.plan.collectives import Links, groups_of, sent_bytes
from tigerjax.plan.estimate import Estimator
from tigerjax.plan.trips import Program

pytestmark = pytest.mark.tpu

HLO = (Path(__file__).parent / "loops.hlo").read_text(encoding="utf-8")
OLD_CALL = """%all-gather.call-start = ((bf16[64,4096]{1,0:T(8,128)(2,1)}, token[]), \
bf16[4096,4096]{1,0:T(8,128)(2,1)}) call-start(%get-tuple-element.o1, %prepared), \
async_execution_thread="sparsecore", to_apply=%called_computation,"""
NEW_CALL = """%all-gather.prepare = ((), (), (s32[8192]{0:T(1024)})) custom-call-start(), \
async_execution_thread="sparsecore", custom_call_target="TODO", called_computations={%called_computation}
  %all-gather.call-start = ((bf16[64,4096]{1,0:T(8,128)(2,1)}), bf16[4096,4096]{1,0:T(8,128)(2,1)}, (s32[8192]{0})) \
custom-call-update(%all-gather.prepare, %get-tuple-element.o1),"""
CUBE = topology.parse("v5p:4x4x4")
BYTES = 4096 * 4096 * 2
LINK = CUBE.chip.link_bandwidth


@pytest.fixture(scope="module")
def cube():
    return topology.describe(CUBE)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,2},{1,3}}, use", [[0, 2], [1, 3]]),
        ("replica_groups=[2,2]<=[4], use", [[0, 1], [2, 3]]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), use", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=2] {'axis_2'}, use", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}, use", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2], device_ids=([2,2]T(1,0)) {'axis_1'}, x", [[0, 2], [1, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}, use", [[0, 1], [2, 3]]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}, use", [[0, 2], [1, 3]]),
        ("source_target_pairs={{0,1},{1,0}}, x", [[0, 1], [1, 0]]),
        ("replica_groups={}, x", [[0, 1, 2, 3]]),
    ],
)
def test_every_spelling_of_device_groups_is_read(text, groups):
    assert groups_of(text, 4) == groups


@pytest.fixture(params=["call", "custom-call"])
def loops(request) -> str:
    """The HLO of libtpu 0.0.42.1, and the same with the gather as libtpu 0.0.52 writes it."""
    if request.param == "call":
        return HLO
    assert HLO.count(OLD_CALL) == HLO.count(" call-done(") == 1
    return HLO.replace(OLD_CALL, NEW_CALL).replace(" call-done(", " custom-call-done(")


def test_collectives_of_a_step_with_axis_bytes_runs_and_loop(cube, loops):
    travels = collectives.collectives(Program(loops), make_mesh(MeshConfig(fsdp=64), cube), CUBE)
    gather, scatter, reduce = travels
    assert (gather.op, gather.axis, gather.asynchronous, gather.times) == ("all-gather", "fsdp", True, 3)
    assert (gather.payload, gather.sent, gather.loops) == (BYTES, BYTES * 63 / 64, ("while.outer",))
    # An all-reduce of which each chip keeps a slice is a reduce-scatter.
    assert (scatter.op, scatter.payload, scatter.asynchronous, scatter.times) == ("reduce-scatter", BYTES, False, 3)
    assert (reduce.op, reduce.payload, reduce.times) == ("all-reduce", 8, 1)
    rows = collectives.by_axis(travels)
    first = rows[0]
    assert (first["op"], first["axis"], first["async"], first["count"]) == ("all-gather", "fsdp", True, 3)
    assert first["bytes"] == 3 * BYTES * 63 / 64


def test_a_whole_cube_gathers_over_six_links_and_a_line_over_one(cube):
    links = Links(CUBE, make_mesh(MeshConfig(fsdp=64), cube))
    assert links.ring_bandwidth(range(64)) == 6 * LINK
    row = [k for k in range(64) if links.coordinates[k][1:] == (0, 0)]
    assert len(row) == 4 and links.ring_bandwidth(row) == 2 * LINK
    assert links.ring_bandwidth(row[:2]) == LINK
    assert links.seconds("all-gather", [list(range(64))], BYTES) == pytest.approx(BYTES * 63 / 64 / (6 * LINK))
    assert links.seconds("all-reduce", [row], BYTES) == pytest.approx(2 * BYTES * 3 / 4 / (2 * LINK))


def test_a_shift_by_one_takes_one_link_also_round_the_end(cube):
    links = Links(CUBE, make_mesh(MeshConfig(fsdp=64), cube))
    row = sorted((k for k in range(64) if links.coordinates[k][1:] == (0, 0)), key=lambda k: links.coordinates[k])
    ring = [[row[i], row[(i + 1) % 4]] for i in range(4)]
    assert links.seconds("collective-permute", ring, BYTES) == BYTES / LINK
    assert links.seconds("collective-permute", [[row[0], row[2]]], BYTES) == 2 * BYTES / LINK
    assert links.seconds("collective-permute", [[0, 0]], BYTES) == 0


def test_slices_talk_over_the_data_centre_network():
    two = topology.parse("v5p:2x2x1", slices=2)
    mesh = make_mesh(MeshConfig(data=2, fsdp=4), topology.describe(two))
    links = Links(two, mesh)
    assert links.ring_bandwidth([0, 4]) == two.chip.dcn_bandwidth
    assert links.ring_bandwidth([0, 1, 2, 3]) == 2 * LINK
    assert collectives.axis_name([[0, 4], [1, 5], [2, 6], [3, 7]], mesh) == "data"


def test_two_devices_of_a_chip_share_its_links_and_talk_through_the_die():
    place = topology.parse("tpu7x:4x4x4")
    mesh = make_mesh(MeshConfig(fsdp=128), topology.describe(place))
    links, link, die = Links(place, mesh), place.chip.link_bandwidth, place.chip.die_bandwidth
    whole = list(range(128))
    one_a_chip = [k for k, d in enumerate(mesh.devices.flat) if d.core_on_chip == 0]
    same_chip = [k for k in whole if links.coordinates[k] == links.coordinates[0]]
    assert (len(one_a_chip), len(same_chip)) == (64, 2)
    # What all devices need enters each chip once, over all its links.
    assert links.seconds("all-gather", [whole], BYTES) == pytest.approx(BYTES * 63 / 64 / (6 * link))
    # A group with one device of each chip has half of the links: the other devices gather at the same time.
    assert links.seconds("all-gather", [one_a_chip], BYTES) == pytest.approx(BYTES * 63 / 64 / (3 * link))
    assert links.seconds("all-gather", [same_chip], BYTES) == pytest.approx(BYTES / 2 / die)
    assert links.seconds("all-to-all", [same_chip], BYTES) == pytest.approx(BYTES / 2 / die)
    assert links.seconds("collective-permute", [same_chip, same_chip[::-1]], BYTES) == pytest.approx(BYTES / die)
    row = sorted((k for k in one_a_chip if links.coordinates[k][1:] == (0, 0)), key=lambda k: links.coordinates[k])
    ring = [[row[i], row[(i + 1) % 4]] for i in range(4)]
    assert links.seconds("collective-permute", ring, BYTES) == pytest.approx(2 * BYTES / link)
    assert links.seconds("all-to-all", [row], BYTES) == pytest.approx(BYTES * 4 / 8 / (link / 2))


SENT = """  %recv.1 = (f32[RECEIVED,8,128]{2,1,0:T(8,128)}, u32[]{:S(2)}, token[]) recv(%after-all.1), channel_id=5, \
is_host_transfer=true, frontend_attributes={_xla_host_transfer_handler_name="xla_megascale_runtime",\
_xla_host_transfer_rendezvous="a_0",_xla_megascale_target=TARGET,_xla_megascale_transfer_type="KIND"}
  %fusion.between = f32[1000,8,128]{2,1,0:T(8,128)} fusion(%x), kind=kLoop, \
backend_config={"window_config":{"estimated_cycles":"CYCLES"}}
  %recv-done.1 = (f32[RECEIVED,8,128]{2,1,0:T(8,128)}, token[]) recv-done(%recv.1), channel_id=5, is_host_transfer=true
"""
LIKE_SLICES, LIKE_DEVICES = '"{GROUP}x{0:3}"', "{{100000,200000},{100001,200001},{100002,200002},{100003,200003}}"


def sent_between(slices, kind, target, received, cycles):
    """(program, mesh, slice) in which a message goes to other slices while `cycles` run."""
    places = topology.parse("v5p:2x2x1", slices=slices)
    mesh = make_mesh(MeshConfig(data=slices, fsdp=4), topology.describe(places))
    text = SENT.replace("KIND", kind).replace("TARGET", target).replace("RECEIVED", str(received))
    text = text.replace("GROUP", ",".join(str(k + 1) for k in range(slices))).replace("CYCLES", str(cycles))
    return Program("ENTRY %main (x: f32[1000,8,128]) -> f32[] {\n" + text + "}\n"), mesh, places


@pytest.mark.parametrize("cycles", [1000, 10**8])
def test_what_comes_from_another_slice_takes_the_data_centre_network_and_is_hidden_by_what_runs_meanwhile(cycles):
    program, mesh, two = sent_between(2, "ALL_REDUCE", LIKE_SLICES, 1000, cycles)
    (sent,) = collectives.collectives(program, mesh, two)
    assert (sent.op, sent.axis, sent.sent, sent.asynchronous) == ("send", "data", 1000 * 8 * 128 * 4, True)
    times = Estimator(program, mesh, two).step()
    needed, work = sent.sent / two.chip.dcn_bandwidth, cycles / two.chip.clock_hz
    assert times.transfers == needed and times.exposed == pytest.approx(max(0.0, needed - work))


@pytest.mark.parametrize(("slices", "kind", "target", "received", "leaves"), [
    (4, "ALL_REDUCE", LIKE_SLICES, 1000, 1500),
    (4, "REDUCE_SCATTER", LIKE_SLICES, 250, 750),
    (4, "ALL_GATHER", LIKE_SLICES, 1000, 750),
    (2, "ALL_GATHER", LIKE_SLICES, 1000, 500),
    (2, "ALL_TO_ALL", LIKE_DEVICES, 1000, 500),
    (2, "ONE_TO_ONE", LIKE_DEVICES.replace(",2", "->2"), 1000, 1000),
])  # fmt: skip
def test_more_slices_send_as_much_as_their_collective_needs(slices, kind, target, received, leaves):
    program, mesh, places = sent_between(slices, kind, target, received, 1)
    (sent,) = collectives.collectives(program, mesh, places)
    assert (sent.group, sent.sent) == (slices, leaves * 8 * 128 * 4)
    assert sent.seconds == sent.sent / places.chip.dcn_bandwidth


OFFLOADED = """ENTRY %main (x: bf16[1,1024,1024]) -> bf16[] {
  %START
  %fusion.between = f32[8,128]{1,0:T(8,128)} fusion(%x), kind=kLoop, \
backend_config={"window_config":{"estimated_cycles":"CYCLES"}}
  %wait = bf16[1,1024,1024]{2,1,0:T(8,128)(2,1)} KIND-done(%begin)
}
"""
STACK, LAYER, HOST = "bf16[4,1024,1024]", "bf16[1,1024,1024]", "{2,1,0:T(8,128)(2,1)S(5)}"
STARTS = {
    "copy": f"({LAYER}{HOST}, {LAYER}{{2,1,0}}, u32[]{{:S(2)}})",
    "dynamic-slice": f"(({STACK}{HOST}, s32[], s32[], s32[]), {LAYER}{{2,1,0}}, u32[]{{:S(2)}})",
    "dynamic-update-slice": f"(({STACK}{HOST}, {LAYER}{{2,1,0}}, s32[], s32[], s32[]), {STACK}{HOST}, u32[])",
}


@pytest.mark.parametrize("cycles", [1000, 10**8])
@pytest.mark.parametrize("kind", STARTS)
def test_a_copy_to_or_from_the_host_counts_what_it_moves_and_is_hidden_by_what_runs_meanwhile(cube, kind, cycles):
    start = f"begin = {STARTS[kind]} {kind}-start(%x)"
    text = OFFLOADED.replace("START", start).replace("KIND", kind).replace("CYCLES", str(cycles))
    mesh = make_mesh(MeshConfig(fsdp=64), cube)
    times = Estimator(Program(text), mesh, CUBE).step()
    needed, work = 1024 * 1024 * 2 / CUBE.chip.host_bandwidth, cycles / CUBE.chip.clock_hz
    assert times.host == pytest.approx(needed) and times.exposed == pytest.approx(max(0.0, needed - work))
    on_chip = Estimator(Program(text.replace("S(5)", "")), mesh, CUBE).step()
    assert on_chip.host == on_chip.exposed == 0


def test_bytes_that_leave_a_device():
    assert sent_bytes("all-gather", 4, 100) == sent_bytes("reduce-scatter", 4, 100) == 75
    assert sent_bytes("all-reduce", 4, 100) == 150 and sent_bytes("collective-permute", 2, 100) == 100


def test_only_what_the_schedule_does_not_hide_is_exposed(cube, loops):
    """Per trip: the gather starts, 4000 cycles run, its done waits for the rest; the scatter is all exposed."""
    mesh = make_mesh(MeshConfig(fsdp=64), cube)
    times = Estimator(Program(loops), mesh, CUBE).step()
    clock, travel = CUBE.chip.clock_hz, BYTES * 63 / 64 / (6 * LINK)
    assert times.static == pytest.approx((3 * 4500 + 70) / clock)
    assert times.transfers == pytest.approx(6 * travel, rel=1e-6)
    assert times.exposed == pytest.approx(3 * (travel - 4000 / clock + travel), rel=1e-6)
    hidden = loops.replace('"estimated_cycles":"1000"', '"estimated_cycles":"1000000"')
    times = Estimator(Program(hidden), mesh, CUBE).step()
    assert times.exposed == pytest.approx(3 * travel, rel=1e-6)


DRIVEN = """HloModule chain

%begin (p.0: bf16[64,4096]) -> (bf16[4096,4096], u32[]) {
  %p.0 = bf16[64,4096]{1,0} parameter(0)
  %all-gather.0 = bf16[4096,4096]{1,0} all-gather(%p.0), replica_groups={}, GATHER
  ROOT %c.0 = (bf16[4096,4096]{1,0}, u32[]) custom-call(%all-gather.0), custom_call_target="AsyncCollectiveStart"
}

%product (p.1: bf16[64,4096], q.1: u32[]) -> (bf16[8,8], bf16[4096,4096], u32[]) {
  %p.1 = bf16[64,4096]{1,0} parameter(0)
  %q.1 = u32[] parameter(1)
  %all-gather.1 = bf16[4096,4096]{1,0} all-gather(%p.1), replica_groups={}, GATHER
  %d.1 = bf16[8,8]{1,0} constant(0)
  ROOT %t.1 = (bf16[8,8]{1,0}, bf16[4096,4096]{1,0}, u32[]) tuple(%d.1, %all-gather.1, %q.1)
}

%end (p.2: bf16[64,4096], q.2: u32[]) -> bf16[4096,4096] {
  %p.2 = bf16[64,4096]{1,0} parameter(0)
  %q.2 = u32[] parameter(1)
  %all-gather.2 = bf16[4096,4096]{1,0} all-gather(%p.2), replica_groups={}, GATHER
  ROOT %c.2 = bf16[4096,4096]{1,0} custom-call(%all-gather.2, %q.2), custom_call_target="AsyncCollectiveDone"
}

%other (p.3: bf16[64,4096]) -> bf16[8,8] {
  %p.3 = bf16[64,4096]{1,0} parameter(0)
  ROOT %d.3 = bf16[8,8]{1,0} constant(0)
}

ENTRY %main (w: bf16[64,4096]) -> bf16[4096,4096] {
  %w = bf16[64,4096]{1,0} parameter(0)
  %first = (bf16[4096,4096]{1,0}, u32[]) fusion(%w), kind=kCustom, calls=%begin
  %flag.0 = u32[] get-tuple-element(%first), index=1
  %work = WORK
  %flag.1 = u32[] get-tuple-element(%work), index=2
  ROOT %last = bf16[4096,4096]{1,0} fusion(%w, %flag.1), kind=kCustom, calls=%end
}
""".replace("GATHER", 'dimensions={0}, frontend_attributes={chain_id="5"}, x={"async_collective_fusion_config":{}}')
WORKS = {
    "drives": "(bf16[8,8]{1,0}, bf16[4096,4096]{1,0}, u32[]) fusion(%w, %flag.0), kind=kOutput, calls=%product",
    "other": "(bf16[8,8]{1,0}, bf16[4096,4096]{1,0}, u32[]) fusion(%w), kind=kOutput, calls=%other",
}


@pytest.mark.parametrize(("work", "hidden"), [("drives", 1.0), ("other", 0.0)])
def test_a_gather_that_the_core_drives_is_one_and_runs_only_while_it_is_driven(work, hidden, cube):
    seconds = BYTES * 63 / 64 / (6 * LINK)
    cycles = round(seconds / 2 * CUBE.chip.clock_hz)
    text = DRIVEN.replace("WORK", f'{WORKS[work]}, backend_config={{"estimated_cycles":"{cycles}"}}')
    program, mesh = Program(text), make_mesh(MeshConfig(fsdp=64), cube)
    (gather,) = collectives.collectives(program, mesh, CUBE)
    assert (gather.op, gather.asynchronous, gather.payload) == ("all-gather", True, BYTES)
    times = Estimator(program, mesh, CUBE).step()
    assert times.static == pytest.approx(seconds / 2, rel=1e-3)
    assert times.exposed == pytest.approx(seconds - hidden * seconds / 2, rel=1e-3)
    assert times.transfers == pytest.approx(seconds)


def test_permutations_of_opposite_ways_share_no_link():
    pod = topology.parse("v5e:16x16")
    mesh = make_mesh(MeshConfig(fsdp=256), topology.describe(pod))
    links = Links(pod, mesh)
    next_row = [[k, (k + 16) % 256] for k in range(256)]
    assert links.way(next_row) == "0+" and links.way([[t, s] for s, t in next_row]) == "0-"
    assert links.way([[k, k // 16 * 16 + (k + 1) % 16] for k in range(256)]) == "1+"
    assert links.way([[k, (k + 32) % 256] for k in range(256)]) == ""  # two links away
    assert links.way([[0, 16], [16, 0]]) == ""

    def permuted(*pairs: list[list[int]]) -> float:
        lines, done = [], []
        for n, each in enumerate(pairs):
            given = ",".join(f"{{{s},{t}}}" for s, t in each)
            lines.append(
                f"  %s.{n} = (bf16[4096,4096]{{1,0}}, bf16[4096,4096]{{1,0}}, u32[], u32[])"
                f" collective-permute-start(%w), source_target_pairs={{{given}}}"
            )
            done.append(f"  %d.{n} = bf16[4096,4096]{{1,0}} collective-permute-done(%s.{n})")
        head = "HloModule p\n\nENTRY %main (w: bf16[4096,4096]) -> bf16[4096,4096] {"
        lines.insert(0, "  %w = bf16[4096,4096]{1,0} parameter(0)")
        return Estimator(Program("\n".join([head, *lines, *done, "}"])), mesh, pod).step().exposed

    alone = permuted(next_row)
    assert alone == pytest.approx(BYTES / pod.chip.link_bandwidth)
    assert permuted(next_row, [[t, s] for s, t in next_row]) == pytest.approx(alone)
    assert permuted(next_row, next_row) == pytest.approx(2 * alone)
