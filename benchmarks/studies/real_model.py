"""The recipe on weights that someone else trained: SmolLM2-135M-Instruct, over seeds, with negative results.

    python benchmarks/data/smollm2.py --out runs/smollm2
    python benchmarks/studies/real_model.py --model runs/smollm2 --seeds 0 1 2     it resumes
    python benchmarks/studies/real_model.py --write      docs/REAL_MODEL.md from finished cells

Rejection sampling, DPO and SFT on prompts that rules in code judge: see `real_model_rounds.py`. Sizes and rates were
chosen on seed 100 only. A cell is one arm of one seed; a cell that was interrupted is run again, and no other. The real
trainer, sampler, reward model and `tigerjax align` do the work.
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

# Scripts import each other by file name; `turns` and `checkable` are in the folders beside this one.
sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("speed", "data")]

import real_model_config as sizes
import real_model_page as page
import real_model_rounds as rounds
from replicate_cells import Cell, chosen, run, say
from turns import commit

from tigerjax.files import manifest
from tigerjax.quickstart.run import XLA_FLAGS


def cells(out: Path, seeds: list[int], model: Path) -> list[Cell]:
    """All cells, seed by seed, each after what it needs."""
    settings = {
        "model": manifest.sha256(model / "model.safetensors"),
        "steps": sizes.STEPS,
        "lr": sizes.PEAK_LR,
        "reward": [rounds.REWARD_STEPS, rounds.REWARD_LR, rounds.RANKED_EACH, rounds.OF_A_KIND],
        "prompts": [rounds.EACH, rounds.TEST_EACH],
        "sampling": [rounds.N, rounds.TEMPERATURE, rounds.NEW_TOKENS],
    }
    dpo = {"dpo": [rounds.DPO_STEPS, rounds.DPO_LR]}
    return [
        Cell(
            experiment="rounds",
            arm=arm,
            seed=seed,
            settings=settings | (dpo if arm == "dpo" else {}),
            run=partial(what, rounds.Place(out, seed, model)),
            needs=tuple(("rounds", need) for need in rounds.NEEDS.get(arm, ())),
        )
        for seed in seeds
        for arm, what in rounds.ARMS.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, default=Path("runs/smollm2"), help="what benchmarks/data/smollm2.py wrote"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=rounds.ARMS)
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
    wanted = [c for c in cells(out, args.seeds, args.model.resolve()) if args.arms is None or c.arm in args.arms]
    try:
        _, failed = run(chosen(wanted, None), out, commit=commit(), say=say)
    except KeyboardInterrupt:
        raise SystemExit("stopped; finished cells are kept, the same command resumes") from None
    if failed:
        raise SystemExit(f"{len(failed)} cells failed, what led to it is in {out / 'log.txt'}")


if __name__ == "__main__":
    main()
