"""The estimate beside measured steps: time of others' attention kernels, by schedules of a form that is made up."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tigerjax.plan import kernels, topology

ROOT = Path(__file__).resolve().parents[2]
WHERE = topology.parse("tpu7x:2x2x1")
SETTINGS = SimpleNamespace(max_target_length=1024, head_dim=128, sa_block_q=256, sa_block_kv=512)


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "tpu"))


def test_causal_blocks_are_those_with_a_pair_and_of_them_those_that_the_mask_cuts():
    from calibration import causal_blocks

    assert causal_blocks(4, 1, 1) == (16, 10, 4 - 4)  # a block of one pair is whole
    assert causal_blocks(1024, 256, 512) == (8, 6, 4)


def test_a_kernel_that_visits_blocks_with_work_runs_the_body_for_cut_blocks_only_there(monkeypatch):
    from calibration import kernel_s

    schedule = kernels.KernelSchedule(bounds=(2, 8, 2**31 - 1), always=5, with_work=700, by_sweep=0)
    monkeypatch.setattr(kernels, "read", lambda text: schedule)
    monkeypatch.setattr(kernels, "alternatives", lambda text: kernels.Alternatives((300, 400), always=10, by_sweep=50))
    each = 2 * 300 + 4 * 400 + 6 * 10 + 4 * 50  # 6 blocks, of which 4 are cut, in 4 sweeps
    assert kernel_s("", "fwd", SETTINGS, WHERE) == pytest.approx(16 * each / WHERE.chip.clock_hz)


def test_a_kernel_that_visits_all_blocks_does_nothing_in_those_without_work(monkeypatch):
    from calibration import kernel_s

    schedule = kernels.KernelSchedule(bounds=(2, 4, 2), always=5, with_work=10_000, by_sweep=3)
    monkeypatch.setattr(kernels, "read", lambda text: schedule)
    cycles = 16 * 5 + 12 * 10_000 + 8 * 3
    assert kernel_s("", "fwd", SETTINGS, WHERE) == pytest.approx(cycles / WHERE.chip.clock_hz)


def test_every_case_names_a_slice_that_can_be_planned_for():
    from calibration import CASES

    for case in CASES.values():
        assert topology.parse(case.topology).devices == int(case.theirs.partition("-")[2]) / (
            2 if case.theirs.startswith("v5p") else 1
        )
