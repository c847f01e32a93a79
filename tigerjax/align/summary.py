"""What the report tells of an alignment: the figures of its ended rounds, read from their folders."""

import json
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.align import steps
from tigerjax.errors import DataError
from tigerjax.files import manifest, paths


def collect(folder: str | Path) -> dict[str, Any]:
    """A report with `align_rounds`: {round, gate, reasons, win_rate, winners, before, after} each.

    before and after are {reward, accuracy, characters (means), scores} on the held-out questions.
    """
    found = []
    for place in steps.folders(paths.of(folder) / "rounds"):
        if manifest.read(place / "gate") is None:
            continue
        gate = json.loads((place / "gate" / "gate.json").read_text(encoding="utf-8"))
        if "held_out" not in gate:
            raise DataError(f"{place / 'gate'}: written by an older version; remove it and `align run` judges again")
        winners = (manifest.read(place / "mix") or {})["counts"]["winners"]
        sides = {}
        for name, answers in gate["held_out"].items():
            sides[name] = {
                "reward": gate["figures"][f"reward_{name}"],
                "accuracy": gate["figures"][f"accuracy_{name}"],
                "characters": sum(length for _, length in answers) / len(answers),
                "scores": [score for score, _ in answers],
            }
        verdict = "accepted" if gate["accepted"] else "refused"
        told = {"round": int(place.name), "gate": verdict, "reasons": gate["reasons"], "winners": winners}
        found.append(told | {"win_rate": gate["figures"]["win_rate"]} | sides)
    if not found:
        raise DataError(f"{folder}: no round has ended; `tigerjax align run {folder}` runs one")
    return {"version": tigerjax.__version__, "title": "Rounds of rejection sampling", "align_rounds": found}
