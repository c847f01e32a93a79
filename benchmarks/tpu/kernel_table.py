"""The splash kernels of a 70B's layer, by the schedules that the compiler makes of them on each chip.

    python benchmarks/tpu/kernel_table.py             prints the table
    python benchmarks/tpu/kernel_table.py --write     puts it into docs/PLAN.md too

64 heads of 128, 8 of keys and values, causal. No TPU is needed. "share of the peak" counts the causal half of all pairs
as work, and the products of the forward pass and of both backward kernels. Blocks are queries x keys by the keys that
are multiplied at one time.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import NamedTuple

from tpu_table import write

from tigerjax.config import SplashConfig
from tigerjax.model.llama.presets import square
from tigerjax.plan import flags, kernels, topology

DOC = Path(__file__).resolve().parents[2] / "docs" / "PLAN.md"
HEADS, KV_HEADS, HEAD_DIM = 64, 8, 128


class Row(NamedTuple):
    chip: str
    rows: int
    length: int
    blocks: SplashConfig = SplashConfig()


WIDE = dataclasses.replace(square(1024, fused=True, multiplied=512), kernel="wide", block_kv_dkv_compute=256)

ROWS = (
    Row("v5p", 2, 4096),
    Row("v5p", 1, 4096),
    Row("v5p", 2, 4096, square(1024, fused=False)),
    Row("v5p", 2, 4096, square(1024, fused=True)),
    Row("v5p", 1, 4096, square(1024, fused=True)),
    Row("v6e", 2, 4096),
    Row("v6e", 2, 4096, square(1024, fused=True)),
    Row("v6e", 2, 4096, square(1024, fused=True, multiplied=512)),
    Row("v6e", 2, 4096, WIDE),
    Row("tpu7x", 2, 8192),
    Row("tpu7x", 2, 8192, square(1024, fused=True)),
    Row("tpu7x", 2, 8192, square(2048, fused=True)),
    Row("tpu7x", 2, 8192, square(2048, fused=True, multiplied=512)),
    Row("tpu7x", 2, 8192, WIDE),
)


def cells(row: Row) -> list[str]:
    topology.set_compiler_environment()
    chip = topology.CHIPS[row.chip]
    phases = [phase for phase in kernels.PRODUCTS if phase != "dq" or not row.blocks.fused_backward]
    calls = {
        kernels.KernelCall(phase, row.rows, HEADS, row.length, row.length, KV_HEADS, HEAD_DIM): phase
        for phase in phases
    }
    took = kernels.seconds(set(calls), chip, row.blocks, None, flags.read(flags.FOLDER / f"{row.chip}.txt"))
    by_phase = {calls[call]: seconds for call, seconds in took.items()}
    products = sum(kernels.PRODUCTS[phase] for phase in phases) + row.blocks.fused_backward
    work = products * row.rows * HEADS * row.length * row.length * HEAD_DIM / chip.device_flops
    blocks = f"{row.blocks.block_q} x {row.blocks.block_kv} by {row.blocks.block_kv_compute}"
    blocks += ", wide" if row.blocks.kernel == "wide" else ""
    blocks += ", fused" if row.blocks.fused_backward else ""
    milliseconds = [f"{1000 * by_phase[phase]:.2f}" if phase in by_phase else "" for phase in kernels.PRODUCTS]
    return [row.chip, str(row.rows), f"{row.length:,}", blocks, *milliseconds, f"{work / sum(took.values()):.1%}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/PLAN.md")
    args = parser.parse_args()
    head = [
        "chip",
        "rows of a device",
        "tokens",
        "blocks",
        "forward ms",
        "of k and v ms",
        "of q ms",
        "share of the peak",
    ]
    rows = []
    print(" | ".join(head), flush=True)
    for row in ROWS:
        rows.append(cells(row))
        print(" | ".join(rows[-1]), flush=True)
    if args.write:
        write(DOC, "kernels", head, rows)


if __name__ == "__main__":
    main()
