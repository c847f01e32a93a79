"""The table of remat policies in docs/MEMORY.md, by the command that the page names, of a small model."""

import sys
from pathlib import Path
from typing import get_args

import pytest

from tigerjax.config import Remat

SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks" / "tpu"
SMALL = {"rows": 2, "seq-len": 1024, "layers": 2, "dim": 256, "mlp": 512, "heads": 2, "kv-heads": 1}
TOKENS = 2 * 1024


def test_every_policy_has_a_row_with_what_it_keeps_and_computes_again(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import memory_table

    words = [word for name, value in SMALL.items() for word in (f"--{name}", str(value))]
    monkeypatch.setattr(sys, "argv", ["memory_table.py", *words])
    memory_table.main()
    lines = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = {cells[0]: cells[1:] for cells in lines[2:]}
    assert list(rows) == [remat for remat in get_args(Remat) if remat != "none"]
    kept = {name: float(cells[0]) for name, cells in rows.items()}
    again = {name: float(cells[3].rstrip("%")) for name, cells in rows.items()}
    saved_per_token = 2 * (256 + 256 + 128 + 128 + 256 + 256 + 512)  # input, q, k, v, out, residual, up; bfloat16
    assert kept["save_up"] == pytest.approx(TOKENS * saved_per_token / 1e6, abs=1)
    assert again["save_dots"] == 0 and again["offload_residual"] == again["save_residual"] > 0
    assert kept["offload_residual"] == 0 < kept["offload_qkv"] == kept["full"]
    assert rows["full"][-1] == "runs again" and rows["offload_qkv"][-1] == "once"
