"""`make bench`: every figure beside that of a peer, in one table; all repeats are written too.

    python benchmarks/speed/bench.py --out runs/bench             all parts; sized for 20 minutes on two idle cores
    python benchmarks/speed/bench.py --only startup checkpoint    some parts; OUT keeps the others; --list names all
    python benchmarks/speed/bench.py --out runs/bench --write     runs nothing: docs/BENCHMARKS.md's table from OUT
    python benchmarks/speed/bench.py --tiny                       the smallest sizes: does it run? (figures say nothing)

Each part is a script of this folder. It runs in a process of its own, and can be run alone with more repeats. A part
writes OUT/NAME.json; OUT/bench.json holds the table, the machine, and the seconds and commit of each part. A ratio
above 1 is in our favour. When a part fails or its peer is not installed, the table says so in one line, the other parts
run, and the exit code is 1.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from turns import HEAD, Row, cells, commit, show

HERE = Path(__file__).resolve().parent
DOC = HERE.parents[1] / "docs" / "BENCHMARKS.md"
START, END = "<!-- bench: benchmarks/speed/bench.py --write -->", "<!-- end of bench -->"


class Part(NamedTuple):
    """A script, its options here and in --tiny, and how its JSON becomes rows."""

    script: str
    options: str
    tiny: str
    rows: Callable[[dict[str, Any]], list[Row]]


def own(figures: dict[str, Any]) -> list[Row]:
    """Rows that the script itself wrote."""
    return [Row(**row) for row in figures["rows"]]


def train(figures: dict[str, Any]) -> list[Row]:
    ours, theirs = figures["30m"]["tigerjax"], figures["30m"]["transformers"]
    beside = "transformers + PyTorch, CPU"
    return [
        Row("training step, 32M parameters, 8 x 256", "tokens/s", ours["tokens_per_s"], theirs["tokens_per_s"], beside),
        Row("training step, peak memory", "GB", ours["peak_gb"], theirs["peak_gb"], beside, "less"),
    ]


def sampler(figures: dict[str, Any]) -> list[Row]:
    theirs = figures.get("transformers_tokens_per_s")
    rows = [Row("sampler, 8 prompts x 10", "tokens/s", figures["tokens_per_s"], theirs, "transformers.generate")]
    rows.append(Row("sampler, first call", "s", figures["first_call_s"], better="less"))
    for name, value in figures.items():
        if name.startswith("ragged") and name.endswith("fill"):
            rows.append(Row(f"sampler, {name.split('_')[1]} ragged prompts, work kept", "", value))
    return rows


def reward(figures: dict[str, Any]) -> list[Row]:
    return [Row("reward model, 20M parameters, scoring", "tokens/s", figures["tokens_per_s"])]


def data(figures: dict[str, Any]) -> list[Row]:
    rows = [
        Row(f"text, {name}", "MB/s/core", stage["mb_per_s_per_core"][-1]) for name, stage in figures["stages"].items()
    ]
    rates = figures["thousand_tokens_per_s"].items()
    return rows + [Row(f"rows, {name}", "K tokens/s/core", value) for name, value in rates]


def loop(figures: dict[str, Any]) -> list[Row]:
    first_call = figures["first_call_s"]
    return [
        Row("loop, a step", "s", figures["loop_step_s"], figures["bare_step_s"], "the compiled step alone", "less"),
        Row(
            "loop, a step besides validation",
            "s",
            figures["validated_step_s"],
            figures["interval_step_s"],
            "without validation",
            "less",
        ),
        Row("loop, a save blocks", "s", figures["blocked_s"], figures["bare_step_s"], "a step", "as is"),
        Row("loop, first step's call", "s", figures["first_call_cached_s"], first_call, "without cache", "less"),
    ]


def convert(figures: dict[str, Any]) -> list[Row]:
    rows = []
    few, many = figures["rows"][0], figures["rows"][-1]
    for way in ("from-hf", "to-hf"):
        name, beside = f"{way} peak RSS, GB", f"{few['layers']} layers of them"
        what = f"convert {way}, {many['layers']} layers ({figures['size']}), peak memory"
        rows.append(Row(what, "GB", many[name], few[name], beside, "less"))
    return rows


PARTS = {
    "startup": Part("startup.py", "--repeats 3", "--repeats 1", own),
    "train": Part("train_beside_transformers.py", "--repeats 3 --steps 5", "--repeats 1 --steps 1", train),
    "sampler": Part("sampler.py", "", "--tiny", sampler),
    "lettered": Part("lettered.py", "--repeats 3", "--repeats 1 --tiny", own),
    "reward": Part("reward_scoring.py", "", "--answers 32", reward),
    "data": Part("data_throughput.py", "--sizes 2 4 8", "--sizes 0.2 0.4", data),
    "peers": Part("data_peers.py", "--megabytes 4", "--megabytes 0.3 --examples 400 --repeats 1", own),
    "checkpoint": Part("checkpoint_peers.py", "--repeats 3", "--scale 0.1 --repeats 1", own),
    "loop": Part("loop_overhead.py", "--steps 24 --repeats 2", "--steps 9 --repeats 1", loop),
    "convert": Part("convert_memory.py", "--size eighth --layers 2 6", "--size tiny --layers 1 2", convert),
    "growth": Part("growth.py", "--repeats 3", "--repeats 1 --tiny", own),
}


def run(name: str, out: Path, tiny: bool) -> tuple[list[Row], str | None, float]:
    """(rows, what went wrong or None, seconds) of one part; its output goes to OUT/NAME.log."""
    part, started = PARTS[name], time.monotonic()
    target = out / f"{name}.json"
    target.unlink(missing_ok=True)
    words = [*(part.tiny if tiny else part.options).split(), "--json", str(target)]
    environment = {"JAX_PLATFORMS": "cpu"} | os.environ
    with open(out / f"{name}.log", "w", encoding="utf-8") as log:
        command = [sys.executable, str(HERE / part.script), *words]
        code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    seconds = time.monotonic() - started
    if code or not target.is_file():
        printed = (out / f"{name}.log").read_text(encoding="utf-8").strip().splitlines() or ["no output"]
        return [], f"{name}: {printed[-1]} (exit {code}, {out / name}.log)", seconds
    return part.rows(json.loads(target.read_text(encoding="utf-8"))), None, seconds


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    cpus = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    names = ("jax", "flax", "orbax-checkpoint", "torch", "transformers", "datasets", "datasketch", "tokenizers")
    from importlib import metadata

    versions: dict[str, str | None] = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"cpu": cpus[0] if cpus else platform.machine(), "cores": os.cpu_count(), "versions": versions}


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).is_file() else []


def page(figures: dict[str, Any]) -> str:
    """The table of the docs, with what its figures depend on."""
    parts, machine = figures["parts"], figures["machine"]
    commits = ", ".join(
        f"{', '.join(name for name in parts if parts[name]['commit'] == one)} at {one}"
        for one in dict.fromkeys(part["commit"] for part in parts.values())
    )
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    minutes = sum(part["seconds"] for part in parts.values()) / 60
    lines = ["| figure | ours | peer | ratio | beside |", "| --- | ---: | ---: | ---: | --- |"]
    for part in parts.values():
        for row in part["rows"]:
            lines.append(f"| {' | '.join(cells(Row(**{name: row[name] for name in Row._fields})))} |")
    return "\n".join(
        [
            f"{machine['cores']} cores ({machine['cpu']}), {minutes:.1f} minutes; {versions}. Parts: {commits}.",
            "",
            *lines,
        ]
    )


def write(figures: dict[str, Any]) -> None:
    text = DOC.read_text(encoding="utf-8")
    before, rest = text.split(START)
    DOC.write_text(f"{before}{START}\n{page(figures)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(f"wrote {DOC}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--list", action="store_true", help="the names of the parts")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--write", action="store_true", help="puts OUT's table into docs/BENCHMARKS.md")
    args = parser.parse_args()
    if args.list:
        print("\n".join(f"{name:12} {part.script} {part.options}" for name, part in PARTS.items()))
        return
    path = args.out / "bench.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"parts": {}, "tiny": args.tiny}
    if args.write:
        if not known["parts"] or known["tiny"]:
            raise SystemExit(f"{path}: no table of the whole sizes; run {sys.argv[0]} --out {args.out} first")
        write(known)
        return
    args.out.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"warning: the machine is busy (load {load:.1f}): figures will be lower and scatter", file=sys.stderr)
    # Figures of --tiny and of whole sizes are never in one table.
    parts = dict(known["parts"]) if known["tiny"] == args.tiny else {}
    print(HEAD)
    for number, name in enumerate(args.only, 1):
        if sys.stderr.isatty():
            print(f"{number}/{len(args.only)} {name} …", end="\r", file=sys.stderr, flush=True)
        rows, failed, seconds = run(name, args.out, args.tiny)
        shown_rows = [row._asdict() | {"ratio": row.ratio} for row in rows]
        parts[name] = {"commit": commit(), "seconds": seconds, "load": load, "failed": failed, "rows": shown_rows}
        for row in rows:
            print(show(row), flush=True)
        if failed:
            print(failed, flush=True)
    ran = [parts[name] for name in args.only]
    minutes = sum(part["seconds"] for part in ran) / 60
    print(f"{sum(len(p['rows']) for p in ran)} figures in {minutes:.1f} minutes; repeats and versions in {args.out}/")
    figures = {"machine": machine(), "tiny": args.tiny, "parts": {name: parts[name] for name in PARTS if name in parts}}
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(any(part["failed"] for part in ran))


if __name__ == "__main__":
    main()
