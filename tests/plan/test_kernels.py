"""The time of attention kernels by their final schedules."""

import dataclasses

import pytest

from tigerjax.config import SplashConfig
from tigerjax.errors import ConfigError
from tigerjax.plan import flags, kernels, topology


def schedule(*, loops=1, bounds="1, 4, 2", products=(12, 19)):
    """40 bundles in libtpu's form: a body from 5 to 34, in which 8 to 10 begin a sweep, 12 to 21 have the matrix
    products, and 25 to 28 end a sweep."""
    marks = {5: "Start region 1", 34: "End region 1", 8: "Start region 2", 10: "End region 2", 12: "Start region 3"}
    marks |= {21: "End region 3", 25: "Start region 4", 28: "End region 4"}
    lines = ["= control target key start", "LB: loop body", "= control target key end", ""]
    for n in range(40):
        label = " LB" if n == 5 or (loops == 2 and n == 13) else " PF" if n == 11 else ""
        said = "%1 = vmatmul.bf16.gmra.mxu0 %2" if n in products else "%3 = vadd.f32 %1, %2"
        lines.append(f"{f'{n:#x}' if n else '0':>6} {label}  : > {{ {said} }} /* {marks.get(n, '')} */")
        lines += [f"iteration_bounds: ({bounds})"] if n == 7 else []
    return "\n".join(lines) + "\n"


def test_a_schedule_is_read_as_what_every_step_does_what_steps_with_work_do_and_what_a_sweep_does():
    found = kernels.read(schedule())
    assert found == kernels.KernelSchedule(bounds=(1, 4, 2), always=30 - 10 - 3 - 4, with_work=10, by_sweep=7)
    # 8 steps, of which three quarters have work, in 4 sweeps
    assert found.cycles(0.75, 0) == 8 * 13 + 6 * 10 + 4 * 7
    assert found.cycles(0.75, 0, sweeps=2) == 8 * 13 + 6 * 10 + 8 * 7  # two in the innermost loop
    assert found.cycles(0.75, 50) == 8 * 13 + 6 * 50 + 4 * 7  # the matrix units take longer than the bundles


def test_cycles_are_the_bundles_of_the_loop_in_each_step_of_the_grid_or_all_where_there_is_one_step():
    assert kernels.cycles(schedule()) == 8 * 30
    one_step = schedule(bounds="1").replace(" LB", " PB")
    assert kernels.cycles(one_step) == kernels.cycles(one_step.replace("iteration_bounds: (1)", "")) == 40
    with pytest.raises(ConfigError, match="a loop without an end"):
        kernels.cycles(schedule().replace("End region 1", ""))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (schedule(loops=2), "2 loops over 1 grids"),
        (schedule().replace(" LB", " PB"), "0 loops over 1 grids"),
        (schedule(products=(3, 12)), "no part with all of its matrix products"),
        (schedule(products=(12, 27)), "no part with all of its matrix products"),
        (schedule(products=()), "no part with all of its matrix products"),
    ],
)
def test_a_schedule_of_another_form_is_refused_with_what_to_do(text, said):
    with pytest.raises(ConfigError, match=f"{said}.*report the chip and the versions"):
        kernels.read(text)


def test_a_loop_over_steps_with_work_only_has_a_body_for_blocks_that_the_mask_cuts_and_one_for_the_others():
    found = kernels.alternatives(schedule(products=(12, 27)))
    assert found == kernels.Alternatives(bodies=(10, 4), always=30 - 10 - 4 - 3, by_sweep=3)
    for text in (schedule(), schedule(products=(6, 12, 27)), schedule(products=())):
        with pytest.raises(ConfigError, match="no two bodies with its matrix products; report the chip"):
            kernels.alternatives(text)


@pytest.mark.tpu
def test_the_kernels_of_a_row_take_longer_than_their_products_at_the_peak_and_one_core_does_the_backward_pass(
    monkeypatch,
):
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION")  # the suite's "highest" asks for float32, which kernels refuse
    chip, blocks = topology.CHIPS["v5p"], SplashConfig(**dict.fromkeys(SplashConfig().blocks(), 256))
    calls = {kernels.KernelCall(phase, 1, 2, 512, 512, 1, 128) for phase in kernels.PRODUCTS}
    took = kernels.seconds(calls, chip, blocks, None, flags.read(flags.FOLDER / "v5p.txt"))
    assert took.keys() == calls
    for call, seconds in took.items():
        at_peak = kernels.PRODUCTS[call.phase] * 2 * 512 * 512 * 128 / chip.peak_flops
        assert at_peak < seconds < 100 * at_peak
        # 3 of 4 blocks have work, where causal attention has half of all pairs; a v5p has two cores
        if call.phase != "fwd":
            assert seconds > 2 * 0.75 / 0.5 * at_peak


@pytest.mark.tpu
def test_the_wide_kernels_compile_and_are_faster_than_those_of_jax_on_a_wide_matrix_unit(monkeypatch):
    monkeypatch.delenv("JAX_DEFAULT_MATMUL_PRECISION")
    chip = topology.CHIPS["tpu7x"]
    jaxs = SplashConfig(**dict.fromkeys(SplashConfig().blocks(), 512), fused_backward=True)
    calls = {kernels.KernelCall(phase, 1, 16, 1024, 1024, 2, 128) for phase in ("fwd", "dkv")}
    options = flags.read(flags.FOLDER / "tpu7x.txt")
    slow, fast = (
        kernels.seconds(calls, chip, c, None, options) for c in (jaxs, dataclasses.replace(jaxs, kernel="wide"))
    )
    for call in calls:
        at_peak = (2 if call.phase == "fwd" else 5) * 16 * 1024 * 1024 * 128 / chip.device_flops
        assert at_peak < fast[call] < slow[call]


def test_a_kernel_that_does_not_compile_is_one_line(monkeypatch):
    monkeypatch.setattr(kernels.sys, "executable", "/bin/false")
    with pytest.raises(ConfigError, match="the attention kernels do not compile alone: no message; report the chip"):
        kernels.seconds(
            {kernels.KernelCall("fwd", 1, 2, 512, 512, 1, 128)}, topology.CHIPS["v5p"], SplashConfig(), None, {}
        )
