"""The one table of `make bench`: turns, ratios, and what becomes of a part that fails or lacks its peer."""

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "speed"))


def test_sides_take_turns_and_a_median_forgets_one_slow_repeat():
    from turns import medians, turns

    order = []
    times = {"ours": iter([1.0, 9.0, 1.2]), "peer": iter([2.0, 2.1, 2.2])}

    def side(name):
        def once():
            order.append(name)
            return next(times[name])

        return once

    found = turns(3, {name: side(name) for name in times})
    assert order == ["ours", "peer"] * 3
    assert medians(found) == {"ours": 1.2, "peer": 2.1}


def test_a_ratio_above_one_is_to_our_favour_either_way():
    from turns import Row, show

    assert Row("rate", "tokens/s", 30.0, 10.0).ratio == 3.0
    assert Row("time", "s", 30.0, 10.0, better="less").ratio == pytest.approx(1 / 3)
    assert Row("alone", "s", 30.0).ratio is None
    told = show(Row("found", "", 5.0, 6.0, "them", "as is"))
    assert "0.83" not in told and "them" in told


def test_a_peer_that_is_not_there_says_how_to_get_it():
    from turns import peer

    with pytest.raises(SystemExit, match="peer not installed: pip install no_such_peer"):
        peer("no_such_peer")


def test_growth_of_a_square_is_two_and_a_bump_is_its_residual():
    from growth import fit

    slope, residual = fit([1, 2, 4, 8], [3.0, 12.0, 48.0, 192.0])
    assert slope == pytest.approx(2.0) and residual == pytest.approx(0.0, abs=1e-9)
    slope, residual = fit([1, 2, 4], [1.0, 2.2, 4.0])
    assert slope == pytest.approx(1.0) and 0.05 < residual < 0.08


def test_a_part_that_fails_is_one_line_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    import bench

    (tmp_path / "good.py").write_text(
        "import json, sys\n"
        "rows = [['a figure', 's', 2.0, 4.0, 'a peer', 'less']]\n"
        "names = ['figure', 'unit', 'ours', 'peer', 'beside', 'better']\n"
        "json.dump({'rows': [dict(zip(names, r)) for r in rows]}, open(sys.argv[sys.argv.index('--json') + 1], 'w'))\n"
    )
    (tmp_path / "lacking.py").write_text("raise SystemExit('peer not installed: pip install datasketch')\n")
    parts = {name: bench.Part(f"{name}.py", "", "", bench.own) for name in ("lacking", "good")}
    monkeypatch.setattr(bench, "HERE", tmp_path)
    monkeypatch.setattr(bench, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["bench.py", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code is True  # exit 1
    out = capsys.readouterr().out
    assert "lacking: peer not installed: pip install datasketch" in out and "2.00  a peer" in out
    told = json.loads((tmp_path / "out" / "bench.json").read_text())
    assert list(told["parts"]) == ["lacking", "good"] and told["parts"]["lacking"]["failed"]
    assert told["parts"]["good"]["rows"][0]["ratio"] == 2.0 and not told["parts"]["good"]["failed"]

    # Another run of one part keeps the other, and the page has the rows of both.
    (tmp_path / "page.md").write_text(f"before\n{bench.START}\nold\n{bench.END}\nafter\n")
    monkeypatch.setattr(bench, "DOC", tmp_path / "page.md")
    monkeypatch.setattr(sys, "argv", ["bench.py", "--out", str(tmp_path / "out"), "--only", "lacking"])
    with pytest.raises(SystemExit):
        bench.main()
    monkeypatch.setattr(sys, "argv", ["bench.py", "--out", str(tmp_path / "out"), "--write"])
    bench.main()
    page = (tmp_path / "page.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert "| a figure, s | 2 | 4 | 2.00 | a peer |" in page


def test_every_part_is_a_script_and_every_option_is_one_of_its_own():
    import bench

    for part in bench.PARTS.values():
        source = (ROOT / "benchmarks" / "speed" / part.script).read_text(encoding="utf-8")
        for option in [w for w in f"{part.options} {part.tiny} --json".split() if w.startswith("--")]:
            assert f'"{option}"' in source, (part.script, option)


def test_rows_of_scripts_that_have_their_own_form():
    import bench

    sides = {
        "tigerjax": {"tokens_per_s": 700.0, "peak_gb": 2.0},
        "transformers": {"tokens_per_s": 350.0, "peak_gb": 3.0},
    }
    rows = bench.train({"device": "cpu", "30m": sides})
    assert [row.ratio for row in rows] == [2.0, 1.5]
    rows = bench.sampler({"tokens_per_s": 9.0, "first_call_s": 2.0, "ragged_24_fill": 0.8, "ragged_24_share": 0.7})
    assert [row.peer for row in rows] == [None, None, None] and "24 ragged" in rows[2].figure
    few, many = ({"layers": n, "from-hf peak RSS, GB": 1.0, "to-hf peak RSS, GB": 2.0} for n in (2, 6))
    assert [row.ratio for row in bench.convert({"size": "eighth", "rows": [few, many]})] == [1.0, 1.0]
