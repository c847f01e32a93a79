"""Plans every configs/tiger_*.py on its slice, and writes the figures into the configs' docstrings.

    python benchmarks/tpu/tiger_plans.py --out runs/tiger_plans            existing plans are read, not made again
    python benchmarks/tpu/tiger_plans.py --out runs/tiger_plans --only tiger_7b_sft --again
    python benchmarks/tpu/tiger_plans.py --out runs/tiger_plans --write    writes the plans into the docstrings

`--write` also puts a table of them all into docs/TPU.md; what has no plan in OUT stays as it is. No TPU is
needed. A plan takes minutes on 2 cores; it is made by `tigerjax plan` in a process of its own, and written to
OUT/NAME.json.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tpu_table import DOC, write

ROOT = Path(__file__).resolve().parents[2]
HOLISTIC = ["--tokens", "300e9"]
LONG = ["--tokens", "20e9"]
ANSWERS = ["--answers", "4"]
WORDS = {
    "tiger_7b_pretrain": ["--topology", "v5p:4x4x4", *HOLISTIC],
    "tiger_13b_pretrain": ["--topology", "v5p:4x4x4", *HOLISTIC],
    "tiger_70b_pretrain": ["--topology", "v5p:4x8x8", *HOLISTIC],
    "tiger_13b_v5_pretrain": ["--topology", "v5p:4x4x4", *HOLISTIC],
    "tiger_13b_v6_pretrain": ["--topology", "v5p:4x4x4", *HOLISTIC],
    "tiger_70b_v2_pretrain": ["--topology", "v5p:4x8x8", *HOLISTIC],
    "tiger_13b_long": ["--topology", "v5p:4x4x4", *LONG],
    "tiger_70b_long": ["--topology", "v5p:4x8x8", *LONG],
    "tiger_7b_sft": ["--topology", "v5p:4x4x4"],
    "tiger_13b_sft": ["--topology", "v5p:4x4x4"],
    "tiger_70b_sft": ["--topology", "v5p:4x4x4"],
    "tiger_70b_lora": ["--topology", "v5e:8x8"],
    "tiger_7b_dpo": ["--topology", "v5p:4x4x4"],
    "tiger_7b_reward": ["--topology", "v5p:4x4x4", *ANSWERS],
    "tiger_13b_reward": ["--topology", "v5p:4x4x4", *ANSWERS],
    "tiger_70b_reward": ["--topology", "v5p:4x4x4", *ANSWERS],
    "tiger_70b_pretrain_tpu7x": ["--topology", "tpu7x:4x4x4", *HOLISTIC],
    "tiger_70b_pretrain_tpu7x:8x8x8": [
        *["--topology", "tpu7x:8x8x8", "--mesh.fsdp", "1024", "--optim.gradient-accumulation-steps", "1", *HOLISTIC],
    ],
    "tiger_70b_long_tpu7x": ["--topology", "tpu7x:4x4x4", *LONG],
    "tiger_70b_sft_tpu7x": ["--topology", "tpu7x:4x4x4"],
    "tiger_70b_reward_tpu7x": ["--topology", "tpu7x:4x4x2", *ANSWERS],
}
"""By config, and by `CONFIG:SLICE` where it is planned for another slice than that of its docstring too."""
MARK = "tiger_plans"
BLOCK = re.compile(r"^Plan     .*?\n\n", re.DOTALL | re.MULTILINE)


def block(name: str, shown: dict[str, Any]) -> str:
    """A plan as the lines of a docstring."""
    command = f"tigerjax plan configs/{name.partition(':')[0]}.py {' '.join(WORDS[name])}"
    if not shown["fits"]:
        return f"Plan     does not fit: {shown['peak_gb']:.1f} of {shown['hbm_gb']:.1f} GB\n         {command}\n\n"
    text = (
        f"Plan     {shown['peak_gb']:.1f} of {shown['hbm_gb']:.1f} GB per chip; a step of {shown['tokens_per_step']:,}"
        f" tokens in {shown['step_s']:.2f} s\n"
        f"         (static {shown['static_step_s']:.2f}, attention {shown['attention_s']:.2f}, not hidden"
        f" {shown['exposed_comm_s']:.2f} of {shown['comm_s']:.2f} s of traffic);\n"
        f"         MFU at most {shown['mfu_bound']:.1%}, at most {shown['tokens_per_s_per_chip']:,.0f} tokens/s/chip"
    )
    if "days" in shown:
        text += f";\n         {shown['tokens']:.0e} tokens in {shown['days']:.3g} days"
    return f"{text}\n         {command}\n\n"


HEAD = (
    "config",
    "slice",
    "mesh",
    "peak GB",
    "static s",
    "attention s",
    "traffic s, not hidden",
    "step s",
    "MFU at most",
)


def cells(name: str, shown: dict[str, Any]) -> list[str]:
    """A plan as a row of docs/TPU.md."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in shown["mesh"].items() if size > 1)
    first = [name.partition(":")[0], shown["topology"], mesh, f"{shown['peak_gb']:.1f}"]
    if not shown["fits"]:
        return [*first, "does not fit", "", "", "", ""]
    times = [f"{shown[key]:.2f}" for key in ("static_step_s", "attention_s", "comm_s", "exposed_comm_s", "step_s")]
    static, attention, traffic, exposed, step = times
    return [*first, static, attention, f"{traffic}, {exposed}", step, f"{shown['mfu_bound']:.1%}"]


def standing() -> dict[str, list[str]]:
    """The rows of docs/TPU.md by name."""
    table = DOC.read_text(encoding="utf-8").partition(f"<!-- {MARK} -->")[2].partition(f"<!-- /{MARK} -->")[0]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line]
    slices = {(name.partition(":")[0], words[1]): name for name, words in WORDS.items()}
    return {slices[row[0], row[1]]: row for row in lines if tuple(row[:2]) in slices}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tiger_plans"))
    parser.add_argument("--only", nargs="+", choices=WORDS, default=list(WORDS))
    parser.add_argument("--again", action="store_true", help="plan what has a file already, too")
    parser.add_argument(
        "--write", action="store_true", help="rewrite docstrings and the table from the files, compile nothing"
    )
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    rows = standing()
    for name in a.only:
        path = (a.out / f"{name.replace(':', '_')}.json").resolve()
        config = ROOT / f"configs/{name.partition(':')[0]}.py"
        if not a.write and (a.again or not path.is_file()):
            command = [
                sys.executable,
                "-m",
                "tigerjax.command.cli",
                "plan",
                str(config),
                *WORDS[name],
                "--json",
                str(path),
            ]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
            if done.returncode:
                print(f"{name} failed: {done.stderr.strip()[-500:]}", flush=True)
                continue
        if not path.is_file():
            continue
        shown = json.loads(path.read_text(encoding="utf-8"))
        text, rows[name] = block(name, shown), cells(name, shown)
        print(f"{name}\n{text}", end="", flush=True)
        if a.write and ":" not in name:
            before, after = BLOCK.split(config.read_text(encoding="utf-8"), maxsplit=1)
            config.write_text(before + text + after, encoding="utf-8")
    if a.write:
        write(DOC, MARK, HEAD, [rows[name] for name in WORDS if name in rows])


if __name__ == "__main__":
    main()
