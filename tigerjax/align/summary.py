"""The figures of an alignment's ended rounds for its report, read from their folders."""

import hashlib
from pathlib import Path
from typing import Any

import tigerjax
from tigerjax.align import examples, rounds, settings, steps
from tigerjax.align import gate as gate_lib
from tigerjax.errors import DataError
from tigerjax.files import manifest, own, paths

SHOWN = 3  # rounds of whose prompts a report has examples


def collect(folder: str | Path) -> dict[str, Any]:
    """The contents of report.json, with one entry of `align_rounds` for each round that has its gate, and one of
    `examples` (`tigerjax.align.examples`) for each of the last SHOWN.

    An entry is {round, gate, reasons, win_rate, scored_by, winners, before, after, diversity?, control?, held_out?,
    note?}. `scored_by` is a hash of the reward. Diversity holds the figures of `tigerjax.align.diversity`, and control
    those of `duel.judge`. Before and after are the current and the new model on the held-out questions: mean {reward,
    accuracy, characters} and the list of scores. The last two are those of `gate.beside`.

    Raises DataError where no round has ended, or where an older version wrote its gate.
    """
    ended: list[dict[str, Any]] = []
    for round_folder in steps.folders(paths.of(folder) / "rounds"):
        if manifest.read(round_folder / "gate") is None:
            continue
        manifest.refuse_changed([round_folder / "gate"])
        path = round_folder / "gate" / "gate.json"
        gate = own.read_object(path, manifest.AGAIN)
        if "held_out" not in gate:
            older = f"{round_folder / 'gate'}: written by an older version"
            raise DataError(f"{older}; remove it and `align run` judges again")
        with own.fields(path, manifest.AGAIN):
            winners = (manifest.read(round_folder / "mix") or {})["counts"]["winners"]
            sides = {}
            for name, answers in gate["held_out"].items():
                sides[name] = {
                    "reward": gate["figures"][f"reward_{name}"],
                    "accuracy": gate["figures"][f"accuracy_{name}"],
                    "characters": sum(length for _, length, *_ in answers) / len(answers),
                    "scores": [score for score, *_ in answers],
                }
            verdict = "accepted" if gate["accepted"] else "refused"
            entry = {"round": int(round_folder.name), "gate": verdict, "reasons": gate["reasons"], "winners": winners}
            entry["scored_by"] = _scored_by(round_folder)
            made = [(manifest.read(round_folder / step) or {}).get("figures", {}) for step in ("sample", "mix")]
            entry |= {"diversity": made[0] | made[1]} if made[0] or made[1] else {}
            entry |= {"control": gate["figures"]["control"]} if "control" in gate["figures"] else {}
            ended.append(entry | {"win_rate": gate["figures"]["win_rate"]} | sides | gate_lib.beside(gate))
    if not ended:
        raise DataError(f"{folder}: no round has ended; `tigerjax align run {folder}` runs one")
    report = {"version": tigerjax.__version__, "title": "Rounds of rejection sampling", "align_rounds": ended}
    places = {entry["round"]: paths.of(folder) / "rounds" / f"{entry['round']:02d}" for entry in ended[-SHOWN:]}
    found = {number: examples.collect(place) for number, place in places.items()}
    if shown := [{"round": number} | one for number, one in found.items() if one is not None]:
        report["examples"] = shown
    if (paths.of(folder) / settings.FILE).is_file():
        report["seed"] = settings.read(paths.of(folder)).align["seed"]
    return report


def _scored_by(round_folder: Path) -> str:
    """A hash of the reward of a round. Scores of different rewards have different scales."""
    made = manifest.read(round_folder / "score") or {}
    config, inputs = made.get("config") or {}, made.get("inputs") or []
    if (config.get("align") or {}).get("more_candidates"):
        inputs = inputs[:-1]  # the model that sampled more
    what = [[given["sha256"] for given in inputs[1:]], (config.get("settings") or {}).get("reward")]
    return hashlib.sha256(manifest.canonical(what)).hexdigest()[:16]


def outcomes(folder: str | Path) -> list[dict[str, Any]]:
    """How each ended round ended: {round, gate, reasons, win_rate, accuracy_before, accuracy_after, reward_before,
    reward_after, winners, held_out?, note?, checkpoint}. `checkpoint` is the model that the next round starts from."""
    place, out = paths.of(folder) / "rounds", []
    for round_folder in steps.folders(place):
        if manifest.read(round_folder / "gate") is None:
            continue
        candidate = round_folder / "candidate" / "candidate.json"
        with own.fields(candidate, manifest.AGAIN):
            current = own.read_object(candidate, manifest.AGAIN)["chosen"]["path"]
        ended = rounds.ended(place, int(round_folder.name), current=current)
        figures = {name: value for name, value in ended.figures.items() if name not in ("counts", "change_points")}
        out.append({"round": int(round_folder.name)} | figures | {"checkpoint": str(ended.checkpoint)})
    return out
