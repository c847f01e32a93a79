"""Llama-2 steps compiled for described TPU slices: memory and static time beside MaxText's at its published settings,
and the least time of a step beside what others have published of real ones.

    python benchmarks/tpu/tpu_table.py --out runs/tpu_table         each row in a process; finished rows are read
    python benchmarks/tpu/tpu_table.py --out runs/tpu_table --only 70b_v5p64_2rows --again
    python benchmarks/tpu/tpu_table.py --out runs/tpu_table --only 70b_v5p64_2rows --vocab 60928
    python benchmarks/tpu/tpu_table.py --out runs/vmem48 --flag xla_tpu_scoped_vmem_limit_kib=49152
    python benchmarks/tpu/tpu_table.py --out runs/tpu_table --write      tables of docs/TPU.md, of whole sets of rows

The rows are those of tpu_rows.py: float32 weights and Adam, bfloat16 compute, splash attention, and L = 4096 and a
vocabulary of 32,000 where nothing else is given. Every row is the step that `tigerjax train` runs, compiled by libtpu
with the flags of tigerjax/plan/libtpu_flags/. No TPU is needed. A row is DIR/NAME_VOCAB.json: the figures of
`tigerjax plan --json`, and of the compiling process its resident memory and its CPU seconds; halved, those are the
least that it takes on two cores.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpu_rows import MODELS, ROWS, config

DOC = Path(__file__).resolve().parents[2] / "docs" / "TPU.md"


def measure(name: str, vocab: int, other: dict[str, str], layers: int | None = None) -> dict[str, Any]:
    """Compiles one row in this process; the figures of its plan. `other` are flags beside those of launch/, `layers`
    those of `config`."""
    from tigerjax.plan import figures, flags, topology
    from tigerjax.plan.compile import compile_for

    row = ROWS[name]
    run, where = config(row, vocab, layers), topology.parse(row.topology, row.slices)
    compiled = compile_for(run, where, options=flags.of(where) | other)
    used = resource.getrusage(resource.RUSAGE_SELF)  # before the program is read
    shown = figures.figures(run, where, compiled)
    process = {"process_cpu_s": used.ru_utime + used.ru_stime, "process_rss_gb": used.ru_maxrss * 1024 / 1e9}
    return shown | {"row": name, "vocab": vocab, "remat": row.remat} | process


HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "MFU at most", "MaxText GB", "MaxText s", "CPU s / 2",
    "RSS GB",
)  # fmt: skip
PUBLISHED_HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "attention s", "not hidden s", "step s", "MFU at most",
    "tokens/s/chip at most", "published MFU", "published tokens/s/chip", "CPU s / 2", "RSS GB",
)  # fmt: skip
LONG_HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "attention s", "not hidden s", "step s", "MFU at most",
    "tokens/s/chip at most", "fsdp x sequence", "CPU s / 2", "RSS GB",
)  # fmt: skip
SLICES_HEAD = (
    "row", "vocabulary", "remat", "peak GB", "static s", "attention s", "not hidden s", "step s", "MFU at most",
    "tokens/s/chip at most", "between slices GB, s", "CPU s / 2", "RSS GB",
)  # fmt: skip
TABLES = {
    "tpu_table": (HEAD, [name for name, row in ROWS.items() if row.peak_gb is not None]),
    "tpu_published": (PUBLISHED_HEAD, [name for name, row in ROWS.items() if row.published is not None]),
    "tpu_long": (LONG_HEAD, [name for name in ROWS if "512_" in name]),
    "tpu_small": (LONG_HEAD, [name for name, row in ROWS.items() if row.fsdp <= 8 and row.peak_gb is None]),
    "tpu_slices": (SLICES_HEAD, ["7b_v5p64", *(name for name, row in ROWS.items() if row.slices > 1)]),
}
"""Of docs/TPU.md: the comment around each, its head and its rows."""


def cells(name: str, shown: dict[str, Any]) -> list[str]:
    row = ROWS[name]
    begin = [name, f"{shown['vocab']:,}", shown["remat"], f"{shown['peak_gb']:.1f}"]
    end = [f"{shown['process_cpu_s'] / 2:.0f}", f"{shown['process_rss_gb']:.1f}"]
    mfu = f"{shown['mfu_bound']:.1%}" if shown["fits"] else ""
    if row.peak_gb is not None:
        static = f"{shown['static_step_s']:.2f}" if shown["fits"] else "does not fit"
        return [*begin, static, mfu, f"{row.peak_gb:.1f}", f"{row.static_s:.2f}", *end]
    times = ["does not fit", "", "", ""]
    if shown["fits"]:
        times = [f"{shown[n]:.2f}" for n in ("static_step_s", "attention_s", "exposed_comm_s", "step_s")]
    tokens = f"{shown['tokens_per_s_per_chip']:,.0f}" if shown["fits"] else ""
    if name in TABLES["tpu_slices"][1]:
        between = [c for c in shown["collectives"] if "data" in c["axis"].split("+")]
        crossing = f"{sum(c['bytes'] for c in between) / 1e9:.2f}, {sum(c['seconds'] for c in between):.3f}"
        return [*begin, *times, mfu, tokens, crossing, *end]
    if row.published is None:
        return [*begin, *times, mfu, tokens, f"{row.fsdp} x {row.sequence}", *end]
    rate, share = row.published
    return [*begin, *times, mfu, tokens, f"{share:.1%}", f"{rate:,}", *end]


def line(cells: Sequence[str]) -> str:
    return f"{cells[0]:22} {cells[1]:10} {cells[2]:14} " + " ".join(f"{text:>11}" for text in cells[3:])


def write(doc: Path, mark: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Puts a table into a page, between the comments of this mark."""
    lines = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    block = "\n".join([f"<!-- {mark} -->", "", *lines, "", f"<!-- /{mark} -->"])
    text = doc.read_text(encoding="utf-8")
    text, found = re.subn(f"<!-- {mark} -->.*<!-- /{mark} -->", lambda _: block, text, flags=re.DOTALL)
    if found != 1:
        raise SystemExit(f"{doc} must hold <!-- {mark} --> … <!-- /{mark} --> once")
    doc.write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tpu_table"), help="folder of the rows' JSON files")
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--vocab", nargs="+", type=int, choices=MODELS["7b"], default=[32_000])
    parser.add_argument("--again", action="store_true", help="compile rows that have a file already, too")
    parser.add_argument("--flag", nargs="+", default=[], metavar="NAME=VALUE", help="of libtpu, over those of launch/")
    parser.add_argument("--layers", type=int, help="of a smaller model, to compare two programs; give another --out")
    parser.add_argument("--write", action="store_true", help="compile nothing; put the rows that are there into docs")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.in_process:
        path = a.out / f"{a.only[0]}_{a.vocab[0]}.json"
        shown = measure(a.only[0], a.vocab[0], dict(f.split("=", 1) for f in a.flag), a.layers)
        path.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
        return
    a.out.mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[list[str]]] = {name: [] for name in ROWS}
    for name in a.only:
        for vocab in a.vocab:
            path = a.out / f"{name}_{vocab}.json"
            if not a.write and (a.again or not path.is_file()):  # a process each: libtpu keeps memory
                command = [sys.executable, __file__, "--in-process", "--out", str(a.out)]
                command += ["--layers", str(a.layers)] if a.layers else []
                command += ["--only", name, "--vocab", str(vocab), *(["--flag", *a.flag] if a.flag else [])]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    print(f"{name} {vocab} failed: {done.stderr.strip()[-500:]}", flush=True)
                    continue
            if path.is_file():
                rows[name].append(cells(name, json.loads(path.read_text(encoding="utf-8"))))
                print(line(rows[name][-1]), flush=True)
    for mark, (head, names) in TABLES.items() if a.write else ():
        if lacking := [name for name in names if not rows[name]]:
            print(f"{mark} stays as it is: {', '.join(lacking)} have no file in {a.out}")
        else:
            write(DOC, mark, head, [cells for name in names for cells in rows[name]])


if __name__ == "__main__":
    # Before jax is imported, here and in the processes that compile.
    from tigerjax.plan.topology import set_compiler_environment

    set_compiler_environment()
    main()
