"""The recipe on weights that someone else trained: SmolLM2-135M-Instruct, over seeds, with negative results.

    python benchmarks/data/smollm2.py --out runs/smollm2
    python benchmarks/data/real_sources.py --out runs/real_text
    python benchmarks/studies/real_model.py --model runs/smollm2 --text runs/real_text --seeds 0 1 2     it resumes
    python benchmarks/studies/real_model.py --write      docs/REAL_MODEL.md from finished cells

    rounds    rejection sampling, DPO and SFT on prompts that rules in code judge (`real_model_rounds.py`)
    text      Chinese entries, and pretraining continued with 0, 5 and 10% instructions (`real_model_text.py`)

Sizes and rates were chosen on seed 100 only. A cell is one arm of one seed; a cell that was interrupted is run again,
and no other. The real trainer, sampler, reward model, tokenizer commands and `tigerjax align` do the work.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

# Scripts import each other by file name; `turns` and `checkable` are in the folders beside this one.
sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("speed", "data")]

import real_model_config as sizes
import real_model_page as page
import real_model_rounds as rounds
import real_model_text as texts
from replicate_cells import Cell, run, say
from turns import commit

from tigerjax.files import manifest
from tigerjax.quickstart.run import XLA_FLAGS

EXPERIMENTS = ("rounds", "text")


def cells(out: Path, seed: int, model: Path, text: Path | None) -> list[Cell]:
    """All cells of a seed, each after what it needs; those of `text` where it is there."""
    place, sha256 = rounds.Place(out, seed, model), manifest.sha256(model / "model.safetensors")
    settings = {
        "model": sha256,
        "steps": sizes.STEPS,
        "lr": sizes.PEAK_LR,
        "reward": [rounds.REWARD_STEPS, rounds.REWARD_LR, rounds.RANKED_EACH, rounds.OF_A_KIND],
        "prompts": [rounds.EACH, rounds.TEST_EACH],
        "sampling": [rounds.N, rounds.TEMPERATURE, rounds.NEW_TOKENS],
    }
    made: list[Cell] = []

    def add(experiment: str, arm: str, what: Any, of_arm: dict[str, Any], *needs: str) -> None:
        given = tuple((experiment, need) for need in needs)
        made.append(
            Cell(experiment=experiment, arm=arm, seed=seed, settings=of_arm, run=partial(what, place), needs=given)
        )

    for arm, what in rounds.ARMS.items():
        more = {"dpo": [rounds.DPO_STEPS, rounds.DPO_LR]} if arm == "dpo" else {}
        add("rounds", arm, what, settings | more, *rounds.NEEDS.get(arm, ()))
    if text is not None:
        of_text = {"model": sha256} | texts.settings(text)
        for arm, what in texts.arms(text).items():
            add("text", arm, what, of_text, *(["rows_mean"] if arm.startswith("mix_") else []))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("runs/smollm2"), help="what benchmarks/data/smollm2.py wrote"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--text", type=Path, default=Path("runs/real_text"), help="what real_sources.py wrote")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--arms", nargs="+", help="these arms alone, and what they need")
    parser.add_argument("--out", type=Path, default=Path("runs/real_model"))
    parser.add_argument("--write", action="store_true", help="run nothing; write the page of the finished cells")
    args = parser.parse_args()
    out = args.out.resolve()
    if args.write:
        page.write(out)
        return
    out.mkdir(parents=True, exist_ok=True)
    # Read when JAX is imported. Arms and seeds run the same programs, so each is compiled once.
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    for name, value in (("PLATFORMS", "cpu"), ("COMPILATION_CACHE_DIR", str(out / "compiled"))):
        os.environ.setdefault(f"JAX_{name}", value)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    text = args.text.resolve() if args.text.is_dir() else None
    if text is not None and (lacking := [path for path in texts.files(text) if not path.is_file()]):
        raise SystemExit(f"{lacking[0]} does not exist; give what benchmarks/data/real_sources.py wrote as --text")
    every = [cell for seed in args.seeds for cell in cells(out, seed, args.model.resolve(), text)]
    wanted = {
        (c.experiment, c.arm, c.seed)
        for c in every
        if c.experiment in args.only and (args.arms is None or c.arm in args.arms)
    }
    for cell in reversed(every):
        if (cell.experiment, cell.arm, cell.seed) in wanted:
            wanted |= {(*need, cell.seed) for need in cell.needs}
    try:
        _, failed = run([c for c in every if (c.experiment, c.arm, c.seed) in wanted], out, commit=commit(), say=say)
    except KeyboardInterrupt:
        raise SystemExit("stopped; finished cells are kept, the same command resumes") from None
    if failed:
        raise SystemExit(f"{len(failed)} cells failed, what led to it is in {out / 'log.txt'}")


if __name__ == "__main__":
    main()
