"""The script of docs/REPLICATION.md: what it runs again, what it calls a result, and that the page says its cells."""

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    for folder in ("speed", "data", "studies"):
        monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / folder))


def make(calls, *, steps=3, fail=(), stop_at=None):
    """Cells of two arms that need a base; each notes that it ran."""
    from replicate_cells import Cell

    from tigerjax.errors import DataError

    def cell(experiment, arm, seed, settings, needs=()):
        def run():
            if (experiment, arm, seed) == stop_at:
                raise KeyboardInterrupt
            calls.append((experiment, arm, seed))
            if (experiment, arm) in fail:
                raise DataError("rows.jsonl:3: broken")
            print("chatter of the cell")
            return {"loss": 0.5}

        return Cell(experiment=experiment, arm=arm, seed=seed, settings=settings, run=run, needs=needs)

    base = (("base", "base"),)
    return [
        made
        for seed in (0, 1)
        for made in (
            cell("base", "base", seed, {"steps": steps}),
            cell("holistic", "0%", seed, {}, base),
            cell("rounds", "n=1", seed, {}),
        )
    ]


def test_a_second_call_runs_nothing_and_gives_the_same_records(tmp_path, capsys):
    from replicate_cells import run

    calls, said = [], []
    first, failed = run(make(calls), tmp_path, commit="abc", say=said.append)
    assert len(calls) == 6 and not failed and first[0]["commit"] == "abc"
    assert said[0] == "6 cells, 0 finished, 6 to run" and "0:00 to go" in said[-1]
    assert capsys.readouterr().out == "" and "chatter" in (tmp_path / "log.txt").read_text()
    again, _ = run(make(calls), tmp_path, commit="def", say=said.append)
    assert len(calls) == 6 and again == first


def test_an_interrupted_cell_alone_is_run_again(tmp_path):
    from replicate_cells import run

    calls = []
    with pytest.raises(KeyboardInterrupt):
        run(make(calls, stop_at=("holistic", "0%", 1)), tmp_path, commit="", say=lambda _: None)
    assert len(calls) == 4
    run(make(calls), tmp_path, commit="", say=lambda _: None)
    assert calls[4:] == [("holistic", "0%", 1), ("rounds", "n=1", 1)]


def test_a_changed_base_runs_again_what_needs_it_and_nothing_else(tmp_path):
    from replicate_cells import run

    run(make([]), tmp_path, commit="", say=lambda _: None)
    calls = []
    run(make(calls, steps=4), tmp_path, commit="", say=lambda _: None)
    assert {(experiment, seed) for experiment, _, seed in calls} == {
        ("base", 0), ("base", 1), ("holistic", 0), ("holistic", 1)
    }  # fmt: skip


def test_what_needs_a_failed_cell_is_left_and_the_rest_is_run(tmp_path):
    from replicate_cells import run

    calls = []
    records, failed = run(make(calls, fail=[("base", "base")]), tmp_path, commit="", say=lambda _: None)
    assert [r["experiment"] for r in records] == ["rounds", "rounds"]
    assert len(failed) == 4 and "rows.jsonl:3: broken" in failed[0] and "needs base / base" in failed[1]
    assert not any(experiment == "holistic" for experiment, _, _ in calls)


def test_only_brings_what_it_needs():
    from replicate_cells import chosen

    assert [c.experiment for c in chosen(make([]), ["holistic"])] == ["base", "holistic"] * 2
    assert [c.experiment for c in chosen(make([]), ["rounds"])] == ["rounds"] * 2


def test_time_to_go_takes_the_same_arm_first_then_its_experiment():
    from replicate_cells import remaining

    cells = make([])
    have = {id(c): None for c in cells}
    assert remaining(cells, have) is None
    for cell, seconds in zip(cells[:3], (10.0, 100.0, 1.0), strict=True):
        have[id(cell)] = {"experiment": cell.experiment, "arm": cell.arm, "seconds": seconds}
    assert remaining(cells, have) == 111.0


@pytest.mark.parametrize(
    "gains, said",
    [
        ([1.0, 1.1, 0.9], "holds"),
        ([1.0, 0.1, 0.4], "leans"),
        ([1.0, -0.1, 2.0], "open"),
        ([0.0, 0.0, 0.0], "open"),
        ([float("nan"), 1.0, 1.0], "open"),
        ([-1.0, -0.1, -0.4], "leans against"),
        ([-1.0, -1.1, -0.9], "contradicted"),
        ([5.0], "too few"),
        ([], "too few"),
    ],
)
def test_a_gain_within_its_spread_is_not_called_a_result(gains, said):
    from replicate_cells import verdict

    assert verdict(gains) == said


def test_examples_until_counts_to_the_first_step_whose_running_mean_is_there():
    from replicate_models import converged, examples_until

    losses = [6.0, 4.0, 5.0, 4.0, 6.0, 3.0, 1.0, *[1.0] * 15]
    limit = converged(losses)
    assert limit == pytest.approx(1.0 + 0.05 * 4.0)
    assert examples_until(losses, 20.0, limit) == 20.0 * 11  # from step 7 on all are 1: five of them at step 11
    assert examples_until(losses, 20.0, 0.9) is None
    assert examples_until([0.1] * 4, 20.0, 0.5) is None  # too few to take the mean of


def test_gains_are_paired_by_seed():
    from replicate_cells import paired

    assert paired({0: 3.0, 1: 5.0, 2: 9.0}, {1: 4.0, 0: 1.0}) == [2.0, 1.0]


def test_the_page_is_what_its_cells_say():
    import replicate_page as page

    assert page.PAGE.read_text(encoding="utf-8") == page.markdown(json.loads(page.KEPT.read_text(encoding="utf-8")))
    for name in page.summary(json.loads(page.KEPT.read_text(encoding="utf-8"))):
        assert (page.KEPT.parent / f"{name}.png").stat().st_size > 5000


def test_a_page_is_not_written_over_by_nothing(tmp_path):
    import replicate_page as page

    before = page.KEPT.read_bytes()
    with pytest.raises(SystemExit, match="no finished cells of tokens, holistic, dedup, rounds, extension;"):
        page.write(page.gather(tmp_path))
    assert page.KEPT.read_bytes() == before
