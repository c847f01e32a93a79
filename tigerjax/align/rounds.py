"""One round of rejection sampling as a folder of steps, each written whole with a manifest, each skipped when done.

    rounds/01/prompts/   prompts.jsonl                            which SFT prompts are answered again
    rounds/01/sample/    candidates.jsonl                         n answers each
    rounds/01/score/     scored.jsonl                             and their calibrated scores, and the reference's
    rounds/01/queue/     queue.jsonl key.jsonl queue.md           what people are asked, and the same as a project
                         label_studio.xml label_studio.json       of Label Studio
    rounds/01/labels/    verdicts.jsonl adjudicate.jsonl missing.json    what they said
    rounds/01/rank/      ranked.jsonl preferences.jsonl           winners, and pairs for the next reward model
    rounds/01/mix/       sft.jsonl                                the next SFT set
    rounds/01/train/     run/                                     the new model, in the trainer's own layout
    rounds/01/gate/      gate.json                                whether it replaces the current one, and the
                                                          [score, characters] of both models' held-out answers

What a step computes is handed in as functions, so this file knows neither the sampler nor the trainer. Long steps work
in STEP.work-HASH, which survives an interruption and becomes part of the step's folder at its end.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax.align import gate as gate_lib
from tigerjax.align import mix as mix_lib
from tigerjax.align import prompts as prompts_lib
from tigerjax.align import rank as rank_lib
from tigerjax.align.config import AlignConfig
from tigerjax.align.people import label_studio
from tigerjax.align.people import labels as labels_lib
from tigerjax.align.people import queue as queue_lib
from tigerjax.align.people.labels import Verdict
from tigerjax.align.steps import STEPS, Step
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths
from tigerjax.files.jsonl import read_jsonl, write_jsonl
from tigerjax.records import sft_examples

Item = tuple[Sequence[Mapping[str, str]], str, str]
Records = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What a round asks others to do. `settings[step]` is JSON that changes whenever that step's function would."""

    sample: Callable[[Records, Path], Iterable[dict[str, Any]]]
    """(prompts, work folder) -> sampler records; those of prompts that were skipped are absent."""
    score: Callable[[Sequence[Item]], Sequence[float]]
    """Calibrated scores of (messages, text, finish)."""
    labels: Callable[[Path], Sequence[Path]]
    """Queue folder -> label files that people delivered; none of them yet means Blocked."""
    train: Callable[[Path, Path], Any]
    """(SFT file, work folder): leaves a run in the work folder that `load_model` reads."""
    evaluate: Callable[[Path], Mapping[str, Any]]
    """Checkpoint -> figures of evaluate.questions.accuracy on held-out questions."""
    held_out: Callable[[Path], Sequence[Item]]
    """Checkpoint -> its answers to held-out prompts, in a fixed order, for the win rate."""
    count_tokens: Callable[[list[dict[str, str]]], int]
    """Encoded length of a chat."""
    max_tokens: int
    """Context of the model, which an edited answer must fit into."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    filters: Sequence[Callable[[str], str | None]] = ()
    """Each gives the reason why a text is unfit for SFT, or None."""
    safety: Sequence[str] = ()
    """Strings that no winner may contain."""
    gold: Sequence[Path] = ()
    """Files of preferences that people gave outside of rounds; they join those of this round for the next reward
    model."""


class Round(NamedTuple):
    """How a round ended."""

    folder: Path
    accepted: bool
    checkpoint: Path
    """The new model when accepted, else the current one."""
    sft: Path
    """The mixed SFT set."""
    figures: dict[str, Any]
    """{reward_before, reward_after, winners {rm, human, edit}, gate, accuracy_before, accuracy_after, counts}"""


def choose_candidate(candidates: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The candidate {path, sha256, metric, step} with the highest metric; of equals the newest (highest step)."""
    usable = [c for c in candidates if c["metric"] == c["metric"]]
    if not usable:
        raise ConfigError(f"none of {len(candidates)} candidate models has a metric; evaluate them first")
    return max(usable, key=lambda c: (c["metric"], c["step"], c["sha256"]))


def run_round(
    rounds: str | Path,
    index: int,
    config: AlignConfig,
    work: Work,
    *,
    sft: str | Path,
    current: str | Path,
    reward_model: str | Path,
    exclude: Collection[str] = frozenset(),
) -> Round:
    """Runs round `index` (from 1), continuing where it stopped. `exclude`: ids that may not be drawn.

    Raises Blocked when labels are missing and GateFailed when no answer wins; a refused model is no error, see
    `Round.accepted`.
    """
    run_steps(
        rounds, index, config, work, until="gate", sft=sft, current=current, reward_model=reward_model, exclude=exclude
    )
    return ended(rounds, index, current=current)


def run_steps(
    rounds: str | Path,
    index: int,
    config: AlignConfig,
    work: Work,
    *,
    until: str,
    sft: str | Path,
    current: str | Path,
    reward_model: str | Path,
    exclude: Collection[str] = frozenset(),
) -> None:
    """`run_round` up to the step `until`, that included; what is done already is skipped."""
    inputs = paths.of(sft), paths.of(current), paths.of(reward_model)
    for step in _steps(paths.of(rounds), index, config, work, *inputs, exclude):
        if step == until:
            return


def ended(rounds: str | Path, index: int, *, current: str | Path) -> Round:
    """How a round with a gate ended; `current` is the model that it started from."""
    folder, current = paths.of(rounds) / f"{index:02d}", paths.of(current)
    verdict = json.loads((folder / "gate" / "gate.json").read_text(encoding="utf-8"))
    counts = {step: (manifest.read(folder / step) or {}).get("counts", {}) for step in STEPS}
    figures = verdict["figures"] | {"gate": "accepted" if verdict["accepted"] else "rejected"}
    figures |= {"reasons": verdict["reasons"], "winners": counts["mix"]["winners"], "counts": counts}
    chosen = folder / "train" / "run" if verdict["accepted"] else current
    return Round(folder, verdict["accepted"], chosen, folder / "mix" / "sft.jsonl", figures)


def _steps(
    rounds: Path,
    index: int,
    config: AlignConfig,
    work: Work,
    sft: Path,
    current: Path,
    reward_model: Path,
    exclude: Collection[str],
) -> Iterator[str]:
    """The names of the steps, each when it is done."""
    folder = rounds / f"{index:02d}"

    def at(name: str, inputs: Sequence[Path], more: Mapping[str, Any] | None = None) -> Step:
        return Step(folder, index, config, work.settings.get(name), name, inputs, more)

    taken = set(exclude) | _used(rounds, index, config.exclude_rounds)

    with at("prompts", [sft], {"exclude": sorted(taken)}) as run:
        if not run.done:
            picked = prompts_lib.select(
                sft_examples([sft]),
                fraction=config.prompt_fraction,
                seed=config.seed,
                round_index=index,
                exclude=taken,
                allow_fraction=config.allow_fraction,
            )
            write_jsonl(run.tmp / "prompts.jsonl", picked.prompts)
            run.counts = picked.counts
    prompts = _read(folder / "prompts" / "prompts.jsonl")
    yield "prompts"

    with at("sample", [folder / "prompts", current]) as run:
        if not run.done:
            with run.working() as place:
                records = _by_prompt(prompts, work.sample(prompts, place))
                write_jsonl(run.tmp / "candidates.jsonl", records)
            skipped = len(prompts) - len(records)
            run.counts = {"in": len(prompts), "out": len(records), "dropped": {"skipped": skipped}}
    yield "sample"

    with at("score", [folder / "sample", reward_model]) as run:
        if not run.done:
            records = _read(folder / "sample" / "candidates.jsonl")
            scored, dropped = score_records(records, work.score)
            write_jsonl(run.tmp / "scored.jsonl", scored)
            run.counts = {"in": len(records), "out": len(scored), "dropped": dropped}
    scored = _read(folder / "score" / "scored.jsonl")
    yield "score"

    with at("queue", [folder / "score"]) as run:
        if not run.done:
            asked = queue_lib.build(
                scored,
                rank_fraction=config.rank_fraction,
                edit_fraction=config.edit_fraction,
                edit_within_ranked=config.edit_within_ranked,
                seed=config.seed,
                round_index=index,
            )
            write_jsonl(run.tmp / "queue.jsonl", asked.items)
            write_jsonl(run.tmp / "key.jsonl", asked.key)
            (run.tmp / "queue.md").write_text(queue_lib.markdown(asked.items), encoding="utf-8")
            (run.tmp / "label_studio.xml").write_text(label_studio.config(), encoding="utf-8")
            manifest.write_json(run.tmp / "label_studio.json", label_studio.tasks(asked.items))
            run.figures = dict(asked.counts)
    yield "queue"

    files = list(work.labels(folder / "queue"))
    with at("labels", [folder / "queue", *files]) as run:
        if not run.done:
            said = labels_lib.import_labels(
                _read(folder / "queue" / "queue.jsonl"),
                _read(folder / "queue" / "key.jsonl"),
                files,
                max_tokens=work.max_tokens,
                count_tokens=work.count_tokens,
                allow_partial=config.allow_partial,
            )
            write_jsonl(run.tmp / "verdicts.jsonl", ({"prompt_id": p, **v._asdict()} for p, v in said.verdicts.items()))
            write_jsonl(run.tmp / "adjudicate.jsonl", said.adjudicate)
            manifest.write_json(run.tmp / "missing.json", said.missing)
            run.counts = said.counts
    yield "labels"

    with at("rank", [folder / "score", folder / "labels", *work.gold]) as run:
        if not run.done:
            verdicts = {v.pop("prompt_id"): Verdict(**v) for v in _read(folder / "labels" / "verdicts.jsonl")}
            ranked = rank_lib.rank(scored, verdicts, safety=work.safety, filters=work.filters)
            write_jsonl(run.tmp / "ranked.jsonl", ranked.records)
            gold = [record | {"provenance": "gold"} for path in work.gold for record in _read(path)]
            write_jsonl(run.tmp / "preferences.jsonl", [*ranked.preferences, *gold])
            run.counts = ranked.counts | ({"gold": len(gold)} if gold else {})
    yield "rank"

    with at("mix", [sft, folder / "rank"]) as run:
        if not run.done:
            mixed = mix_lib.mix(
                sft_examples([sft]),
                _read(folder / "rank" / "ranked.jsonl"),
                round_index=index,
                top_m=config.top_m,
                min_score=config.min_score,
                beat_reference=config.beat_reference,
                on_conflict=config.on_conflict,
                weights={"rm": config.rm_weight, "human": config.human_weight, "edit": config.edit_weight},
            )
            write_jsonl(run.tmp / "sft.jsonl", mixed.examples)
            run.counts = mixed.counts
    yield "mix"

    with at("train", [folder / "mix", current]) as run:
        if not run.done:
            with run.working("run") as place:
                work.train(folder / "mix" / "sft.jsonl", place)
    yield "train"

    new = folder / "train" / "run"
    with at("gate", [folder / "train", current, reward_model]) as run:
        if not run.done:
            manifest.write_json(run.tmp / "gate.json", _judge(config, work, current, new))
    yield "gate"


def score_records(
    records: Sequence[Mapping[str, Any]], score: Callable[[Sequence[Item]], Sequence[float]]
) -> tuple[Records, dict[str, int]]:
    """Sampler records with `score` in every candidate (None when it is not finite) and `reference_score` beside
    `reference`; prompts without a single valid candidate are left out and counted."""
    items: list[Item] = []
    for record in records:
        items += [(record["messages"], c["text"], c["finish"]) for c in record["candidates"]]
        if record.get("reference") is not None:
            items.append((record["messages"], record["reference"], "stop"))
    values: Iterator[float] = iter(score(items))
    out: Records = []
    for record in records:
        candidates = [dict(c) | {"score": _finite(next(values))} for c in record["candidates"]]
        scored = {**record, "candidates": candidates}
        if record.get("reference") is not None:
            scored["reference_score"] = _finite(next(values))
        if any(c["score"] is not None for c in candidates):
            out.append(scored)
    dropped = len(records) - len(out)
    return out, {"no_valid_candidate": dropped} if dropped else {}


def _judge(config: AlignConfig, work: Work, current: Path, new: Path) -> dict[str, Any]:
    before, after = work.evaluate(current), work.evaluate(new)
    items = [work.held_out(current), work.held_out(new)]
    if [list(m) for m, _, _ in items[0]] != [list(m) for m, _, _ in items[1]]:
        raise DataError("held-out answers of the two models are not to the same prompts in the same order")
    old_scores, new_scores = (list(work.score(own)) for own in items)
    result = gate_lib.gate(
        gate_lib.figures_of(before),
        gate_lib.figures_of(after),
        wins=gate_lib.win_rate(new_scores, old_scores),
        max_mean_loss_points=config.max_mean_loss_points,
        max_task_loss_points=config.max_task_loss_points,
        min_win_rate=config.min_win_rate,
    )
    figures = result.figures | {
        "reward_before": sum(old_scores) / len(old_scores),
        "reward_after": sum(new_scores) / len(new_scores),
        "accuracy_before": before["overall"],
        "accuracy_after": after["overall"],
    }
    held_out = {
        name: [[_finite(score), len(text)] for score, (_, text, _) in zip(scores, own, strict=True)]
        for name, scores, own in (("before", old_scores, items[0]), ("after", new_scores, items[1]))
    }
    return {"accepted": result.accepted, "reasons": result.reasons, "figures": figures, "held_out": held_out}


def _used(rounds: Path, index: int, back: int) -> set[str]:
    """Ids of the prompts of the `back` rounds before this one."""
    files = [rounds / f"{i:02d}" / "prompts" / "prompts.jsonl" for i in range(max(1, index - back), index)]
    return {p["prompt_id"] for file in files if file.is_file() for p in _read(file)}


def _by_prompt(prompts: Records, sampled: Iterable[dict[str, Any]]) -> Records:
    """Sampler records in the order of the prompts, with what the prompts know (reference, task, lang)."""
    found: dict[str, dict[str, Any]] = {}
    for record in sampled:
        if record["prompt_id"] in found:
            raise DataError(f"the sampler gave prompt {record['prompt_id']!r} twice")
        found[record["prompt_id"]] = record
    if strange := sorted(found.keys() - {p["prompt_id"] for p in prompts}):
        raise DataError(f"the sampler gave prompt {strange[0]!r}, which it was not asked for")
    return [{**found[p["prompt_id"]], **p} for p in prompts if p["prompt_id"] in found]


def _read(path: Path) -> Records:
    return [record for _, record in read_jsonl(path)]


def _finite(value: float) -> float | None:
    value = float(value)
    return value if value - value == 0.0 else None
