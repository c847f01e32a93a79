"""The rows of docs/TPU.md by the older compiler, that of Python 3.11 (jax 0.10.2, libtpu 0.0.42.1), beside the newer.

    python3.11 benchmarks/tpu/tpu_table.py --out runs/tpu_older --vocab 32000       with the lock of Python 3.11
    python benchmarks/tpu/older_table.py --older runs/tpu_older --newer runs/tpu_table --write

Rows are those that both folders have. Nothing is compiled here.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from tpu_rows import ROWS
from tpu_table import DOC, write

MARK = "tpu_older"
HEAD = (
    "row", "remat", "older peak GB", "static s", "attention s", "not hidden s", "step s", "MFU at most", "CPU s / 2",
    "newer peak GB", "step s", "MFU at most",
)  # fmt: skip
VOCAB = 32_000


def cells(name: str, older: dict[str, Any], newer: dict[str, Any]) -> list[str]:
    parts = ("static_step_s", "attention_s", "exposed_comm_s")
    theirs, ours = (
        [f"{plan['step_s']:.2f}", f"{plan['mfu_bound']:.1%}"] if plan["fits"] else ["does not fit", ""]
        for plan in (older, newer)
    )
    times = [f"{older[part]:.2f}" if older["fits"] else "" for part in parts]
    head = [name, older["remat"], f"{older['peak_gb']:.1f}", *times, *theirs, f"{older['process_cpu_s'] / 2:.0f}"]
    return [*head, f"{newer['peak_gb']:.1f}", *ours]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--older", type=Path, default=Path("runs/tpu_older"), help="folder of the older rows")
    parser.add_argument("--newer", type=Path, default=Path("runs/tpu_table"), help="folder of the newer rows")
    parser.add_argument("--write", action="store_true", help="put the table into docs/TPU.md")
    a = parser.parse_args()
    rows = []
    for name in ROWS:
        paths = [folder / f"{name}_{VOCAB}.json" for folder in (a.older, a.newer)]
        if all(path.is_file() for path in paths):
            older, newer = (json.loads(path.read_text(encoding="utf-8")) for path in paths)
            rows.append(cells(name, older, newer))
            print(" | ".join(rows[-1]))
    if a.write:
        write(DOC, MARK, HEAD, rows)


if __name__ == "__main__":
    main()
