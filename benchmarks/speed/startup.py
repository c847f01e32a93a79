"""Seconds before anything happens: imports, help, and the first training step, cold and with the compilation cache.

    python benchmarks/speed/startup.py --json startup.json [--repeats 3]

Each is a process of its own; they run in turns, and the figures are medians. The first training step is the one of
`train_beside_transformers.py`, with a Llama of 32 million parameters on both sides. It is timed from the start of the
process to the end of the step.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from turns import Row, clocked, finish, medians, turns

IMPORTS = {
    "import tigerjax": "import tigerjax",
    "import the trainer": "import tigerjax.train.loop",
    "import torch": "import torch",
    "import a Transformers model": "from transformers import LlamaForCausalLM, Trainer",
}


def process(*words: str, cache: str | None = None) -> float:
    """Seconds of one process; SystemExit with its last words when it fails."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    if cache is not None:
        environment |= {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

    def work() -> None:
        done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} failed: {done.stderr.strip()[-500:]}")

    return clocked(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    for code in IMPORTS.values():
        process("-c", code)  # from the disk once, so that every turn finds it in memory
    sides: dict[str, Callable[[], float]] = {
        name: partial(process, "-c", code) for name, code in {"nothing": "pass", **IMPORTS}.items()
    }
    sides["help"] = lambda: process("-m", "tigerjax", "--help")
    timed = turns(args.repeats, sides)
    beside = str(Path(__file__).with_name("train_beside_transformers.py"))

    def first(side: str, cache: str | None = None) -> float:
        return process(beside, "--only", side, "--steps", "0", cache=cache)

    with tempfile.TemporaryDirectory() as cache:
        first("tigerjax", cache)  # fills it
        steps = {
            "cold": lambda: first("tigerjax"),
            "cached": lambda: first("tigerjax", cache),
            "transformers": lambda: first("transformers"),
        }
        timed |= turns(args.repeats, steps)
    s = medians(timed)
    rows = [
        Row("import tigerjax", "s", s["import tigerjax"], s["nothing"], "python -c pass", "as is"),
        Row("tigerjax --help", "s", s["help"], s["nothing"], "python -c pass", "as is"),
        Row("import the trainer", "s", s["import the trainer"], s["import torch"], "import torch", "less"),
        Row("import the trainer", "s", s["import the trainer"], s["import a Transformers model"], "Trainer", "less"),
        Row("process to first step, cold", "s", s["cold"], s["transformers"], "transformers", "less"),
        Row("process to first step, cached", "s", s["cached"], s["transformers"], "transformers", "less"),
    ]
    finish(rows, {"seconds": timed}, args.json)


if __name__ == "__main__":
    main()
