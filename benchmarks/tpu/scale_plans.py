"""Plans a 70B on 4,096 chips, and writes docs/SCALE.md's tables: compilation, traffic, and bytes of a host.

    python benchmarks/tpu/scale_plans.py --out runs/scale_plans            existing plans are read, not made again
    python benchmarks/tpu/scale_plans.py --out runs/scale_plans --only one_slice --again
    python benchmarks/tpu/scale_plans.py --out runs/scale_plans --write    the tables, from the plans that are there

No TPU is needed. A plan takes minutes on two cores; it is made by `tigerjax plan` in a process of its own, and written
to OUT/NAME.json with the CPU seconds and the memory of that process.
"""

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from tpu_table import write

from tigerjax import config as config_lib
from tigerjax.model.numbers import parameter_count

ROOT = Path(__file__).resolve().parents[2]
DOC = ROOT / "docs" / "SCALE.md"
CONFIG = ROOT / "configs" / "tiger_70b_pretrain.py"
CHIPS_PER_HOST = 4
TOKEN_BYTES = 2
"""Of a token in the files of rows, where the vocabulary has fewer than 65,536 entries."""
STATE_BYTES = 12
"""Of a weight in a checkpoint: weight and both moments of Adam, in float32."""
ONE = ["--topology", "v5p:16x16x16"]
ROWS = {
    "one_slice": [*ONE, "--mesh.data", "16", "--mesh.fsdp", "256", "--global-batch-size", "4096"],
    "half_batch": [
        *[*ONE, "--mesh.data", "16", "--mesh.fsdp", "128", "--mesh.sequence", "2"],
        *["--global-batch-size", "2048"],
    ],
    "quarter_batch": [
        *[*ONE, "--mesh.data", "16", "--mesh.fsdp", "64", "--mesh.sequence", "4"],
        *["--global-batch-size", "1024"],
    ],
    "four_slices": [
        *["--topology", "v5p:8x8x16", "--slices", "4", "--mesh.data", "16", "--mesh.fsdp", "256"],
        *["--global-batch-size", "4096"],
    ],
}
FIXED = ["--optim.gradient-accumulation-steps", "1", "--tokens", "2e12"]

Tables = dict[str, tuple[list[str], list[list[str]]]]


def plan(name: str, path: Path) -> str | None:
    """Makes one plan; what went wrong, or None."""
    command = [sys.executable, "-m", "tigerjax.command.cli", "plan", str(CONFIG), *ROWS[name], *FIXED]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([*command, "--json", str(path.resolve())], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip()[-500:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    shown = json.loads(path.read_text(encoding="utf-8"))
    shown |= {"process_cpu_s": cpu_s, "process_rss_gb": after.ru_maxrss * 1024 / 1e9}
    path.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    return None


def tables(plans: dict[str, dict[str, Any]]) -> Tables:
    """The tables of the page, by mark."""
    steps, traffic, hosts = [], [], []
    for name, shown in plans.items():
        mesh = " x ".join(f"{axis} {size}" for axis, size in shown["mesh"].items() if size > 1)
        slices = f"{shown['slices']} x {shown['topology']}" if shown["slices"] > 1 else shown["topology"]
        steps.append(
            [
                *[name, slices, mesh, f"{shown['tokens_per_step'] / 1e6:.1f} M", f"{shown['peak_gb']:.1f}"],
                *[f"{shown['step_s']:.2f}", f"{shown['mfu_bound']:.1%}", f"{shown['tokens_per_s_per_chip']:,.0f}"],
                *[f"{shown['process_cpu_s'] / 2:.0f}", f"{shown['process_rss_gb']:.1f}"],
            ]
        )
        for sent in shown["collectives"]:
            if sent["bytes"] >= 1e7:
                hidden = "behind computing" if sent["async"] else "waited for"
                cells = [f"{sent['bytes'] / 1e9:.2f}", f"{sent['seconds']:.3f}", hidden]
                traffic.append([name, sent["op"], sent["axis"], *cells])
        hosts.append([name, *_of_host(shown)])
    head = ["plan", "slices", "mesh", "tokens per step", "peak GB", "step s", "MFU at most", "tokens/s/chip at most"]
    return {
        "scale_steps": ([*head, "CPU s / 2", "RSS GB"], steps),
        "scale_traffic": (["plan", "collective", "axis", "GB sent per chip and step", "seconds", ""], traffic),
        "scale_hosts": (
            [
                "plan",
                "hosts",
                "checkpoint GB",
                "of it written by a host, GB",
                "held by a host, GB",
                "rows read by a host, kB/s",
            ],
            hosts,
        ),
    }


def _of_host(shown: dict[str, Any]) -> list[str]:
    """What one host writes and reads: of a checkpoint, and of the rows per second."""
    hosts = shown["chips"] // CHIPS_PER_HOST
    whole = parameter_count(config_lib.load(CONFIG).model) * STATE_BYTES / 1e9
    held = shown["argument_gb"] * CHIPS_PER_HOST
    rows_kb_s = shown["tokens_per_s_per_chip"] * CHIPS_PER_HOST * TOKEN_BYTES / 1e3
    return [f"{hosts:,}", f"{whole:.0f}", f"{whole / hosts:.2f}", f"{held:.1f}", f"{rows_kb_s:.1f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scale_plans"))
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--again", action="store_true", help="plan what has a file already, too")
    parser.add_argument(
        "--write", action="store_true", help="plan nothing; write the tables of the plans that are there"
    )
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    plans = {}
    for name in a.only:
        path = a.out / f"{name}.json"
        if not a.write and (a.again or not path.is_file()) and (trouble := plan(name, path)):
            print(f"{name} failed: {trouble}", flush=True)
        if path.is_file():
            plans[name] = json.loads(path.read_text(encoding="utf-8"))
    for mark, (head, rows) in tables(plans).items():
        print(mark, *(" | ".join(row) for row in (head, *rows)), "", sep="\n", flush=True)
        if a.write:
            write(DOC, mark, head, rows)


if __name__ == "__main__":
    main()
