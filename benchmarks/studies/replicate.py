"""The method, replicated small: what each of its claims is worth on tiny models, over seeds, with negative results.

    python benchmarks/studies/replicate.py --seeds 0 1 2 --out runs/replicate   resumes; Ctrl-C at any time
    python benchmarks/studies/replicate.py --only rounds extension              these experiments and what they need
    python benchmarks/studies/replicate.py --write                              docs/REPLICATION.md from finished cells

    tokens      characters per token on held-out Chinese before and after the vocabulary grows
    holistic    0, 5 and 10% instructions in pretraining: answers before SFT, held-out losses, SFT examples
    dedup       the 10% mixture with what the text repeats of the instructions (`holistic` has it without)
    rounds      rejection sampling with 1 to 16 candidates, with and without people, in a world whose truth is known
    preferences a round that ends in DPO, IPO, KTO, ORPO or SimPO on the same candidates; over seeds 0 to 4
    reinforcement GRPO and PPO beside rejection sampling, with as many answers drawn; over seeds 0 to 4
    extension   new rows of the vocabulary as means of sub-tokens, random or distilled: held-out loss after some steps

`base` (text, vocabularies and English base of a seed) and `world` (SFT and reward models) are made on the way. The real
trainer, mixtures, sampler and `tigerjax align` do the work. `--thin` takes a few steps everywhere: it shows that all
runs, and its figures say nothing. By-name text (`--real`, made by `real_sources.py`) joins `tokens` where it is there.
"""

import argparse
import dataclasses
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

# Scripts import each other by file name; `turns` and `make_embedded` are in the folders beside this one.
sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in ("speed", "data")]

import align_world
import align_world_config
import replicate_models as models
import replicate_page as page
import replicate_preferences as preferences
import replicate_reinforcement as reinforcement
import replicate_rounds as rounds
import replicate_tokens as tokens
from replicate_cells import Cell, chosen, run, say
from turns import commit

from tigerjax.files import manifest
from tigerjax.quickstart.run import XLA_FLAGS

EXPERIMENTS = ("tokens", "holistic", "dedup", "rounds", "preferences", "reinforcement", "extension")
THIN = models.Sizes(base_steps=12, pretrain_steps=12, sft_steps=12)


def cells(out: Path, seeds: list[int], sizes: models.Sizes, real: Path | None) -> list[Cell]:
    """All cells, seed by seed, each after what it needs."""
    text = models.embedded_sha256()
    sources = None if real is None else {p.stem: manifest.sha256(p) for p in sorted(real.glob("*_zh.jsonl"))}
    return [cell for seed in seeds for cell in _of_seed(out, seed, sizes, text, real, sources)]


def _of_seed(
    out: Path, seed: int, sizes: models.Sizes, text: str, real: Path | None, sources: dict[str, str] | None
) -> list[Cell]:
    made: list[Cell] = []

    def add(experiment: str, arm: str, what: Any, settings: dict[str, Any], *needs: tuple[str, str]) -> None:
        made.append(Cell(experiment=experiment, arm=arm, seed=seed, settings=settings, run=what, needs=needs))

    fixed = {"embedded": text, "held_out": tokens.EMBEDDED_HELD_OUT, "pieces": tokens.EMBEDDED_PIECES}
    add("tokens", "embedded", partial(tokens.embedded, out, seed), fixed)
    if real is not None:
        given = {"size": tokens.BY_NAME_SIZE, "held_out": tokens.BY_NAME_HELD_OUT, "verse": tokens.VERSE_SHARE}
        add("tokens", "by-name", partial(tokens.by_name, out, seed, real), given | {"sources": sources})

    place, steps = models.Place(out, seed, sizes), dataclasses.asdict(sizes)
    own = {
        "embedded": text,
        "layers": sizes.layers,
        "steps": sizes.base_steps,
        "zh_share": models.BASE_ZH_SHARE,
        "held_out": models.HELD_OUT,
    }
    add("base", "base", partial(models.base, place), own)
    for arm, share in models.SHARES.items():
        settings = {"steps": steps, "instruct_fraction": share}
        add("holistic", arm, partial(models.pretrain, place, arm), settings, ("base", "base"))
    settings = {"steps": steps, "instruct_fraction": models.SHARES["10%"], "repeats": True}
    add("dedup", "repeats", partial(models.pretrain, place, "repeats"), settings, ("base", "base"))
    for arm in models.ROWS:
        settings = {"rows": arm, "after_steps": models.STEPS_AFTER}
        add("extension", arm, partial(models.extension, place, arm), settings, ("base", "base"))

    world = rounds.world(out, seed)
    settings = {"sft_steps": align_world.SFT_STEPS, "reward_steps": align_world.REWARD_STEPS}
    add("world", "world", partial(rounds.prepare, world), settings)
    settings = {"round_steps": align_world_config.ROUND_STEPS, "weight": align_world.WEIGHT}
    add("rounds", "control", partial(rounds.control, world), settings, ("world", "world"))
    for name, of in rounds.ARMS.items():
        add("rounds", name, partial(rounds.one_round, world, name), settings | of._asdict(), ("world", "world"))
    for name in preferences.ARMS:
        given = {"round_steps": align_world_config.ROUND_STEPS, **preferences.settings(name)}
        add("preferences", name, partial(preferences.one_round, world, name), given, ("world", "world"))
    for name in reinforcement.ARMS:
        given = {"round_steps": align_world_config.ROUND_STEPS, **reinforcement.settings(name)}
        add("reinforcement", name, partial(reinforcement.one_arm, world, name), given, ("world", "world"))
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--real", type=Path, default=Path("runs/real_text/text"))
    parser.add_argument("--thin", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true", help="run nothing; write the page of the finished cells")
    args = parser.parse_args()
    if args.thin and args.write:
        parser.error("--thin shows that it runs; its figures do not go into a page")
    out = (args.out or Path("runs/replicate_thin" if args.thin else "runs/replicate")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    # Read when JAX is imported. Arms and seeds run the same programs, so each is compiled once.
    os.environ.setdefault("XLA_FLAGS", XLA_FLAGS)
    for name, value in (("PLATFORMS", "cpu"), ("COMPILATION_CACHE_DIR", str(out / "compiled"))):
        os.environ.setdefault(f"JAX_{name}", value)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    if args.write:
        page.write(page.gather(out))
        return
    real = args.real.resolve() if args.real.is_dir() else None
    if args.thin:
        align_world.SFT_STEPS, align_world.REWARD_STEPS, align_world_config.ROUND_STEPS = 120, 20, 20
        preferences.STEPS = 12
        reinforcement.ROLLOUTS = 2
    wanted = chosen(cells(out, args.seeds, THIN if args.thin else models.Sizes(), real), args.only)
    try:
        records, failed = run(wanted, out, commit=commit(), say=say)
    except KeyboardInterrupt:
        raise SystemExit("stopped; finished cells are kept, the same command resumes") from None
    summary = page.summary(records)
    print("\n".join(page.lines(summary)))
    if args.json:
        manifest.write_json(args.json, {"summary": summary, "cells": records})
    if failed:
        raise SystemExit(f"{len(failed)} cells failed, what led to it is in {out / 'log.txt'}")


if __name__ == "__main__":
    main()
