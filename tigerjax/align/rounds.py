"""One round of rejection sampling, as a folder of steps. A step that is done is skipped.

    rounds/01/prompts/   prompts.jsonl                            the SFT prompts that are answered again
    rounds/01/sample/    candidates.jsonl                         n new answers to each prompt
    rounds/01/score/     scored.jsonl                             the same with their scores
    rounds/01/queue/     queue.jsonl key.jsonl queue.md           the questions to people, lines to fill in, and the
                         template.jsonl                           same questions as a project of Label Studio
                         label_studio.xml label_studio.json       of a team also assignments.jsonl and people/NAME/
    rounds/01/labels/    verdicts.jsonl adjudicate.jsonl missing.json    people's answers to them; of a team also
                         people.json                              how each did on gold questions
    rounds/01/rank/      ranked.jsonl preferences.jsonl           winners, and preferences for the next reward model
                         pairs.jsonl                              each prompt's best answer above its worst
    rounds/01/mix/       sft.jsonl winners.jsonl control.jsonl    the next SFT set, what is new in it, and the control's
    rounds/01/train/     run/                                     the new model, in the trainer's own layout
    rounds/01/gate/      gate.json answers.jsonl control/         whether the new model replaces the current one, both
                                                                  models' held-out answers, and the control

The models are hidden behind `RoundFunctions`, so this file knows neither the sampler nor the trainer. A step that
takes long works in the folder STEP.work-HASH, which survives an interruption. See tigerjax.align.steps.
"""

import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tigerjax.align import control, diversity, duel
from tigerjax.align import gate as gate_lib
from tigerjax.align import mix as mix_lib
from tigerjax.align import prompts as prompts_lib
from tigerjax.align import rank as rank_lib
from tigerjax.align.answers import Records, ScoreFunction, score_records
from tigerjax.align.config import AlignConfig
from tigerjax.align.more import answered_again
from tigerjax.align.people import folders, gold, panel
from tigerjax.align.people import labels as labels_lib
from tigerjax.align.people.labels import Verdict
from tigerjax.align.steps import STEPS, Step
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, own, paths
from tigerjax.files.jsonl import read_jsonl, write_jsonl
from tigerjax.records import sft_examples

TRAIN_FILES = {"winners": "mix/sft.jsonl", "pairs": "rank/pairs.jsonl"}
"""What the next model may be trained on, in the folder of the round."""
CONTROL_FILE = "mix/control.jsonl"
WINNERS = "winners.jsonl"
CONVERSATIONS = "labels/conversations.jsonl"
"""The questions that label lines brought themselves, where there are any."""


def _no_more(count: int, work: Path, prompts: Records) -> Records:
    raise ConfigError(
        f"align.more_candidates={count}: these rounds have no sampler for further candidates; set it to 0"
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundFunctions:
    """What a round asks of models and people, as functions."""

    sample: Callable[[Records, Path], Iterable[dict[str, Any]]]
    """(prompts, work folder) -> sampler records with n candidates each; a prompt that was skipped has none."""
    sample_more: Callable[[int, Path, Records], Iterable[dict[str, Any]]] = _no_more
    """(further candidates of each, work folder, prompts) -> sampler records with the first n candidates and these."""
    score: ScoreFunction
    """The scores of answers."""
    labels: Callable[[Path], Sequence[Path]]
    """Queue folder -> the label files that people have delivered so far."""
    train: Callable[[Path, Path], Any]
    """(file, work folder): trains the next model on the file and leaves its run in the work folder."""
    answers: Callable[[Path], Records]
    """Checkpoint -> sampler records with its greedy answer to each held-out question, always in the same order."""
    accuracy: Callable[[Records], Mapping[str, Any]]
    """Records of `answers` -> figures of evaluate.questions.accuracy."""
    count_tokens: Callable[[list[dict[str, str]]], int]
    """The number of tokens of a chat."""
    trains_on: Literal["winners", "pairs"] = "winners"
    """Which file `train` gets: the mixed SFT set, or each prompt's best answer above its worst."""
    max_tokens: int
    """The context of the model. An edited answer must fit into it."""
    filters: Sequence[Callable[[str], str | None]] = ()
    """Each gives the reason why a text is unfit for SFT, or None."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """By step, JSON that changes whenever the function of the step would give something else. A step whose settings
    changed is done again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoundInputs:
    """What a round starts from."""

    sft: Sequence[Path]
    """The files of the SFT set, which the current model was trained on."""
    current: Path
    """Checkpoint of the current model, which samples and which the new model must beat."""
    reward: Sequence[Path]
    """Reward models, and files that functions read. What else scores depend on is in `RoundFunctions.settings`."""
    exclude: Collection[str] = frozenset()
    """Ids of SFT examples whose prompts may not be drawn."""
    safety: Sequence[str] = ()
    """Strings that no winner may contain."""
    questions: Sequence[Path] = ()
    """The files of the held-out questions, which `RoundFunctions.answers` and `accuracy` read."""
    gold: Sequence[Path] = ()
    """Files of preferences that people gave outside of rounds. They join this round's preferences."""
    gold_questions: Path | None = None
    """Questions whose right order is known, for the queues of a team."""


class Round(NamedTuple):
    """How a round ended."""

    folder: Path
    accepted: bool
    """Whether the gate let the new model pass."""
    checkpoint: Path
    """The new model when accepted, else the current one."""
    sft: Path
    """The mixed SFT set."""
    figures: dict[str, Any]
    """{reward_before, reward_after, winners {rm, human, edit}, gate, accuracy_before, accuracy_after, counts, …}"""


def choose_candidate(candidates: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The best of the candidate models {path, sha256, metric, step}: the highest metric, of equals the highest step.

    Raises ConfigError where none of them has a metric.
    """
    usable = [c for c in candidates if c["metric"] == c["metric"]]
    if not usable:
        raise ConfigError(f"none of {len(candidates)} candidate models has a metric; evaluate them first")
    return max(usable, key=lambda c: (c["metric"], c["step"], c["sha256"]))


def run_round(
    rounds: str | Path, index: int, config: AlignConfig, functions: RoundFunctions, inputs: RoundInputs
) -> Round:
    """Runs round `index` (from 1) in the folder `rounds` and says how it ended; an interrupted round resumes.

    Raises Blocked when labels are missing, and GateFailed when no answer wins. A new model that the gate refuses is no
    error: see `Round.accepted`.
    """
    run_steps(rounds, index, config, functions, inputs, until="gate")
    return ended(rounds, index, current=inputs.current)


def run_steps(
    rounds: str | Path,
    index: int,
    config: AlignConfig,
    functions: RoundFunctions,
    inputs: RoundInputs,
    *,
    until: str,
) -> None:
    """Runs the steps of a round up to and including the step `until`."""
    for step in _steps(paths.of(rounds), index, config, functions, inputs):
        if step == until:
            return


def ended(rounds: str | Path, index: int, *, current: str | Path) -> Round:
    """How a round ended that has its gate; `current` is the model that it started from."""
    folder, current = paths.of(rounds) / f"{index:02d}", paths.of(current)
    manifest.refuse_changed([folder / "gate"])
    verdict = own.read_object(folder / "gate" / "gate.json", manifest.AGAIN)
    counts = {step: (manifest.read(folder / step) or {}).get("counts", {}) for step in STEPS}
    with own.fields(folder / "gate" / "gate.json", manifest.AGAIN):
        figures = verdict["figures"] | {"gate": "accepted" if verdict["accepted"] else "rejected"}
        figures |= {"reasons": verdict["reasons"], "winners": counts["mix"]["winners"], "counts": counts}
        figures |= gate_lib.beside(verdict)
    chosen = folder / "train" / "run" if verdict["accepted"] else current
    return Round(folder, verdict["accepted"], chosen, folder / "mix" / "sft.jsonl", figures)


def _steps(
    rounds: Path, index: int, config: AlignConfig, functions: RoundFunctions, inputs: RoundInputs
) -> Iterator[str]:
    """Runs one step after the other and yields its name when it is done."""
    folder = rounds / f"{index:02d}"
    sft, current, reward = inputs.sft, inputs.current, inputs.reward

    def begin(name: str, reads: Sequence[Path], more: Mapping[str, Any] | None = None) -> Step:
        return Step(folder, index, config, functions.settings.get(name), name, reads, more)

    taken = set(inputs.exclude) | _used(rounds, index, config.exclude_rounds)

    with begin("prompts", sft, {"exclude": sorted(taken)}) as step:
        if not step.done:
            picked = prompts_lib.select(
                sft_examples(sft),
                fraction=config.prompt_fraction,
                seed=config.seed,
                round_index=index,
                exclude=taken,
                allow_fraction=config.allow_fraction,
            )
            write_jsonl(step.tmp / "prompts.jsonl", picked.prompts)
            step.counts = picked.counts
    prompts = _read(folder / "prompts" / "prompts.jsonl")
    yield "prompts"

    with begin("sample", [folder / "prompts", current]) as step:
        if not step.done:
            with step.working() as work:
                records = _by_prompt(prompts, functions.sample(prompts, work))
                write_jsonl(step.tmp / "candidates.jsonl", records)
            skipped, step.figures = len(prompts) - len(records), diversity.of_candidates(records)
            step.counts = {"in": len(prompts), "out": len(records), "dropped": {"skipped": skipped}}
    yield "sample"

    # With further candidates this step samples too.
    with begin("score", [folder / "sample", *reward, *([current] if config.more_candidates else [])]) as step:
        if not step.done:
            records, again = _read(folder / "sample" / "candidates.jsonl"), dict[str, int]()
            scored, dropped = score_records(records, functions.score)
            if config.more_candidates:
                with step.working() as work:
                    sample = functools.partial(functions.sample_more, config.more_candidates, work)
                    spread = config.min_spread or 0.0
                    scored, again = answered_again(records, scored, sample, functions.score, spread=spread)
                lost = len(records) - len(scored)
                dropped = {"no_valid_candidate": lost} if lost else {}
            write_jsonl(step.tmp / "scored.jsonl", scored)
            step.counts = {"in": len(records), "out": len(scored), "dropped": dropped}
            too_long = sum(r.get("reference") is not None and r["reference_score"] is None for r in scored)
            step.counts |= ({"references_without_score": too_long} if too_long else {}) | again
    scored = _read(folder / "score" / "scored.jsonl")
    yield "score"

    golds_file = [] if inputs.gold_questions is None else [inputs.gold_questions]
    with begin("queue", [folder / "score", *golds_file]) as step:
        if not step.done:
            golds = gold.read(inputs.gold_questions) if inputs.gold_questions is not None else []
            step.figures = folders.write_queue(step.tmp, scored, config, index, golds)
    yield "queue"

    files = [*functions.labels(folder / "queue"), *panel.earlier_records(folder, config)]
    with begin("labels", [folder / "queue", *files]) as step:
        if not step.done:
            items = _read(folder / "queue" / "queue.jsonl")
            imported = labels_lib.import_labels(
                items,
                _read(folder / "queue" / "key.jsonl"),
                functions.labels(folder / "queue"),
                max_tokens=functions.max_tokens,
                count_tokens=functions.count_tokens,
                allow_partial=config.allow_partial,
                panel=panel.of_round(folder, config),
                takes=labels_lib.of_queue(items),
            )
            folders.write_labels(step.tmp, imported, Path(CONVERSATIONS).name)
            step.counts = imported.counts
    yield "labels"

    with begin("rank", [folder / "score", folder / "labels", *inputs.gold], {"safety": list(inputs.safety)}) as step:
        if not step.done:
            verdicts = {v.pop("prompt_id"): Verdict(**v) for v in _read(folder / "labels" / "verdicts.jsonl")}
            how: dict[str, Any] = {"safety": inputs.safety, "filters": functions.filters}
            talks = _read(folder / CONVERSATIONS) if (folder / CONVERSATIONS).is_file() else []
            ranked = rank_lib.rank([*scored, *talks], verdicts, **how, min_spread=config.min_spread)
            write_jsonl(step.tmp / "ranked.jsonl", ranked.records)
            of_gold = [record | {"provenance": "gold"} for path in inputs.gold for record in _read(path)]
            write_jsonl(step.tmp / "preferences.jsonl", [*ranked.preferences, *of_gold])
            write_jsonl(step.tmp / "pairs.jsonl", ranked.pairs)
            step.counts = ranked.counts | ({"gold": len(of_gold)} if of_gold else {})
    yield "rank"

    with begin("mix", [*sft, folder / "rank"]) as step:
        if not step.done:
            try:
                mixed = mix_lib.mix(
                    sft_examples(sft),
                    _read(folder / "rank" / "ranked.jsonl"),
                    round_index=index,
                    top_m=config.top_m,
                    min_score=config.min_score,
                    beat_reference=config.beat_reference,
                    on_conflict=config.on_conflict,
                    weights={"rm": config.rm_weight, "human": config.human_weight, "edit": config.edit_weight},
                )
            except mix_lib.NoWinner as error:  # prompts that the step before dropped have their reasons there
                earlier = (manifest.read(folder / "rank") or {})["counts"]
                why = Counter(earlier["dropped"]) + Counter(error.dropped)
                raise mix_lib.NoWinner(earlier["in"], why) from error
            won = [e for e in mixed.examples if e["id"].startswith(f"rs{index:02d}-")]
            write_jsonl(step.tmp / "sft.jsonl", mixed.examples)
            write_jsonl(step.tmp / WINNERS, won)
            step.counts, step.figures = mixed.counts, diversity.of_winners(won, scored)
            if config.control:
                pairs = _read(folder / TRAIN_FILES["pairs"]) if functions.trains_on == "pairs" else None
                given = sft_examples(sft), _read(folder / "rank" / "ranked.jsonl"), pairs
                control_set = control.training_set(config, *given, won=won, round_index=index)
                write_jsonl(step.tmp / "control.jsonl", control_set)
    yield "mix"

    learned = folder / TRAIN_FILES[functions.trains_on]
    with begin("train", [learned.parent, current]) as step:
        if not step.done:
            with step.working("run") as work:
                functions.train(learned, work)
    yield "train"

    new, of_control = folder / "train" / "run", [folder / CONTROL_FILE] if config.control else []
    with begin("gate", [folder / "train", current, *reward, *inputs.questions, *of_control]) as step:
        if not step.done:
            if config.control:
                with step.working("control") as work:
                    functions.train(folder / CONTROL_FILE, work)
                    judged = duel.judge(config, functions, current, new, work)
            else:
                judged = duel.judge(config, functions, current, new)
            duel.write(step.tmp, judged)
    yield "gate"


def _used(rounds: Path, index: int, back: int) -> set[str]:
    """Ids of the prompts of the `back` rounds before this one."""
    files = [rounds / f"{i:02d}" / "prompts" / "prompts.jsonl" for i in range(max(1, index - back), index)]
    return {p["prompt_id"] for file in files if file.is_file() for p in _read(file)}


def _by_prompt(prompts: Records, sampled: Iterable[dict[str, Any]]) -> Records:
    """Sampler records in the order of the prompts, with the prompts' own fields (reference, task, lang)."""
    records: dict[str, dict[str, Any]] = {}
    for record in sampled:
        if record["prompt_id"] in records:
            raise DataError(f"the sampler gave prompt {record['prompt_id']!r} twice")
        records[record["prompt_id"]] = record
    if unknown := sorted(records.keys() - {p["prompt_id"] for p in prompts}):
        raise DataError(f"the sampler gave prompt {unknown[0]!r}, which it was not asked for")
    return [{**records[p["prompt_id"]], **p} for p in prompts if p["prompt_id"] in records]


def _read(path: Path) -> Records:
    return [record for _, record in read_jsonl(path)]
