"""Commands of rejection sampling in rounds: a plan, its steps one by one, all of them, and where they stand.

Those that use a model take --hosts.*: on several hosts the same command runs on each, and DIR is one folder.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from tigerjax.align.config import AlignConfig
from tigerjax.command.arguments import keep, override, say, show
from tigerjax.command.progress import show_progress
from tigerjax.errors import Blocked, GateFailed
from tigerjax.files import paths
from tigerjax.processes.rendezvous import AUTO, HostsConfig

Folder = Annotated[Path, "positional"]
ALONE = HostsConfig(find="one")  # of steps that use no model


def init(
    config: Path,
    overrides: list[str],
    out: Path,
    sft: Path,
    candidates: list[Path],
    reward_model: Path,
    questions: Path,
    gold: list[Path] = [],  # noqa: B006  # read only, and tyro shows it
    safety: Path | None = None,
    exclude: Path | None = None,
    align: AlignConfig = AlignConfig(prompt_fraction=0.10, seed=0),  # noqa: B008  # frozen
    n: int = 10,
    temperature: float = 0.9,
    top_p: float = 0.95,
    top_k: int = 0,
    max_new_tokens: int = 128,
    score_rows: int = 64,
    json: Path | None = None,
) -> None:
    """Writes the plan of an alignment to OUT/align.json; CONFIG is that of the SFT run which ends each round.

    A round starts from the best of CANDIDATES by their accuracy on QUESTIONS. EXCLUDE lists ids of SFT examples that
    may not be drawn, SAFETY strings that no winner may contain; GOLD are preferences of people for the next reward
    model.

    Example: tigerjax align init configs/quickstart_rejection_sampled.py --out runs/align --sft sft.jsonl \
--candidates runs/sft --reward-model runs/reward/model --questions dev.jsonl
    """
    from tigerjax.align import project

    override(config, overrides, "tigerjax align init")  # refused now rather than in the first round

    def place(path: Path) -> str:
        return str(paths.resolved(path))

    settings = project.AlignSettings(
        config=place(config),
        overrides=overrides,
        align=dataclasses.asdict(align),
        sampling={
            "n": n,
            "temperature": temperature,
            "top_p": top_p,
            "top_k": top_k,
            "max_new_tokens": max_new_tokens,
        },
        sft=place(sft),
        candidates=list(map(place, candidates)),
        reward_model=place(reward_model),
        score_rows=score_rows,
        questions=place(questions),
        gold=list(map(place, gold)),
        safety=None if safety is None else place(safety),
        exclude=None if exclude is None else place(exclude),
    )
    project.write(out, settings)
    show({"plan": str(out / project.FILE), "candidates": len(candidates)}, json)


def prompts(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Draws the prompts of the round under way, or of the next one, for which it chooses the best candidate model.

    Example: tigerjax align prompts runs/align
    """
    _step(dir, "prompts", hosts, json)


def sample(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Samples n answers to each prompt of the round from its candidate model; a restart continues.

    Example: tigerjax align sample runs/align
    """
    _step(dir, "sample", hosts, json)


def score(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Scores every answer, and the existing ones, with the reward model.

    Example: tigerjax align score runs/align
    """
    _step(dir, "score", hosts, json)


def queue(dir: Folder, json: Path | None = None) -> None:
    """Writes what people are asked to rank and to edit, without scores: JSONL, Markdown and a Label Studio project.

    Example: tigerjax align queue runs/align
    """
    _step(dir, "queue", ALONE, json)


def import_labels(dir: Folder, labels: list[Path] = [], json: Path | None = None) -> None:  # noqa: B006  # read only
    """Imports label files; one wrong line, and nothing is imported (exit 3). Exit 4 while labels are missing.

    A file is JSONL or Label Studio's JSON export. Files may come one after another; without --labels those that came
    are looked at again.

    Example: tigerjax align import runs/align --labels answers.jsonl
    """
    _step(dir, "labels", ALONE, json, labels)


def rank(dir: Folder, json: Path | None = None) -> None:
    """Orders the answers: edited before ranked by people before scored; writes preferences for a reward model too.

    Example: tigerjax align rank runs/align
    """
    _step(dir, "rank", ALONE, json)


def mix(dir: Folder, json: Path | None = None) -> None:
    """Adds the winners to the SFT set; exit 5 when there is none.

    Example: tigerjax align mix runs/align
    """
    _step(dir, "mix", ALONE, json)


def train(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Trains the next model from the current one on the mixed set; a restart continues.

    Example: tigerjax align train runs/align
    """
    _step(dir, "train", hosts, json)


def gate(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Compares the new model with the current one and ends the round; exit 5 when the new one is refused.

    Example: tigerjax align gate runs/align
    """
    _step(dir, "gate", hosts, json)


def run(dir: Folder, rounds: int = 1, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Runs rounds 1 to ROUNDS, continuing where they stopped; exit 4 when labels are missing.

    A refused model is not used by later rounds; exit 5 when that of the last round is refused. On several hosts the
    same command runs on each.

    Example: tigerjax align run runs/align --rounds 2
    """
    from tigerjax.processes import hosts as others

    others.start(hosts)
    figures: list[dict[str, Any]] = []
    last = None
    with others.together():
        project = _open(dir)
        for index in range(1, rounds + 1):
            _until(project, index, "gate")
            last = project.ended(index)
            figures.append({"round": index} | last.figures | {"checkpoint": str(last.checkpoint), "sft": str(last.sft)})
            if others.is_writer():
                keep({"rounds": figures}, json)
    if others.is_writer():
        status(dir)
    if last is not None and not last.accepted:
        raise GateFailed(f"round {rounds:02d}: the new model is refused: {'; '.join(last.figures['reasons'])}")


def status(dir: Folder, json: Path | None = None) -> None:
    """Shows a table of the rounds: which steps are done, with their counts.

    Example: tigerjax align status runs/align
    """
    from rich.console import Console
    from rich.table import Table

    from tigerjax.align import project, steps

    project.read(dir)  # so that a wrong folder is named
    table, figures = Table("round", "step", "state", "counts"), []
    for folder in steps.folders(dir / "rounds"):
        for place, line in enumerate(steps.status(folder)):
            figures.append({"round": int(folder.name)} | line)
            counts = say(line["counts"]) if line["counts"] else ""
            table.add_row(folder.name if not place else "", line["step"], line["state"], counts)
    Console().print(table if figures else "no round has begun")
    keep({"steps": figures}, json)


def _open(dir: Path) -> Any:
    from tigerjax.align import project
    from tigerjax.processes import hosts

    settings = project.read(dir)
    hosts.same("the alignment", dataclasses.asdict(settings))
    config = override(Path(settings.config), settings.overrides, "tigerjax align")
    return project.Project(dir, settings, config, progress=show_progress)


def _step(dir: Path, step: str, hosts: HostsConfig, json: Path | None, labels: list[Path] | None = None) -> None:
    """One step of the round under way; those before it must be done."""
    from tigerjax.align.steps import STEPS
    from tigerjax.files import manifest
    from tigerjax.processes import hosts as others

    others.start(hosts)
    with others.together():
        project = _open(dir)
        index = project.under_way()
        others.same("the round under way", index)
        project.require(index, step, {name: "import" if name == "labels" else name for name in STEPS})
        if labels:
            project.deliver(index, labels)
        _until(project, index, step)
    done = manifest.read(project.rounds / f"{index:02d}" / step) or {}
    figures = {"round": index, "step": step} | done.get("counts", {}) | done.get("figures", {})
    ended = project.ended(index) if step == "gate" else None
    if ended is not None:
        figures |= {key: value for key, value in ended.figures.items() if key != "counts"}
    if others.is_writer():
        show(figures, json)
    if ended is not None and not ended.accepted:
        raise GateFailed("the new model is refused, the current one stays: " + "; ".join(ended.figures["reasons"]))


def _until(project: Any, index: int, step: str) -> None:
    """Runs a round up to a step; what it waits for is said with the place of the questions."""
    try:
        project.until(index, step)
    except Blocked as error:
        queue = project.rounds / f"{index:02d}" / "queue" / "queue.md"
        raise Blocked(f"{error}: {queue}, then `tigerjax align import {project.folder} --labels FILE`") from error
