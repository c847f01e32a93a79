"""Reading scheduled HLO. `loops.hlo` is cut from programs that libtpu 0.0.42.1 wrote, shortened by hand."""

import itertools
from pathlib import Path

import pytest

from tigerjax.plan import trips
from tigerjax.plan.hlo import parse, shape_bytes
from tigerjax.plan.trips import Program

LOOPS = (Path(__file__).parent / "loops.hlo").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def program() -> Program:
    return Program(LOOPS)


def test_every_computation_and_the_entry_are_found(program):
    assert program.module.entry == "main.1_spmd"
    assert {"outer_body", "outer_condition", "inner_body", "called_computation"} <= set(program.module.computations)


def test_an_instruction_that_goes_on_after_a_brace_at_the_start_of_a_line_is_one(program):
    body = program.module.computations["outer_body"].instructions
    assert body["fusion.o"].cycles == 500 and "continued" in body["fusion.o"].attributes
    assert list(body)[-2:] == ["fusion.rs", "tuple.o"]
    assert program.module.computations["inner_condition"].root.name == "lt.i"


def test_trip_counts_come_from_the_bound_and_the_step(program):
    """The inner loop steps by 2 to 8; the outer one's bound is an element of the tuple that it carries."""
    assert program.trips == {"while.inner": 4, "while.outer": 3}


def test_a_bound_that_a_long_chain_of_scalars_reads_twice_each_is_evaluated_once_each(monkeypatch):
    """Without that, the 32 links of this one would take 2^32 evaluations."""
    calls = []

    def counted(a, b):
        calls.append(a)
        assert len(calls) <= 10_000
        return max(a, b)

    monkeypatch.setitem(trips.ARITHMETIC, "maximum", counted)
    names = ["constant.eight", *(f"link.{n}" for n in range(32))]
    links = [
        f"  %{name} = s32[]{{:T(128)}} maximum(%{before}, %{before})" for before, name in itertools.pairwise(names)
    ]
    bound = "  %constant.eight = s32[]{:T(128)} constant(8)"
    text = LOOPS.replace(bound, "\n".join([bound, *links]))
    text = text.replace(
        "compare(%get-tuple-element.ic, %constant.eight)", f"compare(%get-tuple-element.ic, %{names[-1]})"
    )
    assert Program(text).trips == {"while.inner": 4, "while.outer": 3} and calls


def test_static_cycles_multiply_nested_loops_and_take_the_longest_branch(program):
    assert program.cycles == 3 * (4 * 1000 + 500) + 70


def test_a_visit_knows_how_often_it_runs_and_in_which_loops(program):
    visits = {v.instruction.name: v for v in program.visits()}
    assert visits["fusion.i"].times == 12 and visits["fusion.i"].loops == ("while.outer", "while.inner")
    assert visits["fusion.b"].times == 1 and visits["fusion.b"].loops == ()


def test_a_loop_whose_count_depends_on_data_is_refused():
    text = LOOPS.replace("/*index=3*/%constant.layers", "%get-tuple-element.unknown")
    with pytest.raises(ValueError, match=r"while\.outer depends on data"):
        _ = Program(text).cycles


def test_a_text_without_an_entry_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing\n")


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ("bf16[64,4096]{1,0:T(8,128)(2,1)}", [64 * 4096 * 2]),
        ("(f32[3]{0:T(128)}, s32[]{:T(128)}, pred[7]{0})", [12, 4, 7]),
        ("((bf16[2]{0}, token[]), u8[5]{0})", [4, 5]),
    ],
)
def test_bytes_of_a_shape(shape, sizes):
    assert shape_bytes(shape) == sizes
