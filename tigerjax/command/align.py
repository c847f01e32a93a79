"""Commands of rejection sampling in rounds: the settings, the steps one by one, all steps, and their state.

Commands that use a model take --hosts.*: on several hosts the same command runs on each, with one DIR that all see.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from tigerjax.align.config import AlignConfig, AlignInputs, resolved
from tigerjax.command.arguments import override
from tigerjax.command.figures import as_text, save, show
from tigerjax.command.groups import SAMPLING, Sampling, SamplingOptions
from tigerjax.command.options import FLAT, Changes, ConfigFile
from tigerjax.command.progress import show_progress
from tigerjax.config import RunConfig
from tigerjax.config.ranges import Count
from tigerjax.errors import Blocked, ConfigError, GateFailed
from tigerjax.files import paths
from tigerjax.processes.rendezvous import AUTO, HostsConfig
from tigerjax.terminal import printable
from tigerjax.terminal import show as to_terminal

Folder = Annotated[Path, "positional"]
ALONE = HostsConfig(find="one")  # for steps that use no model


def init(
    config: ConfigFile,
    out: Path,
    inputs: Annotated[AlignInputs, FLAT],
    align: AlignConfig = AlignConfig(prompt_fraction=0.10, seed=0),
    sampling: Sampling = SAMPLING,
    score_batch_size: Count = 64,
    ask_judge: bool = False,
    json: Path | None = None,
) -> None:
    """Writes the settings of an alignment to OUT/align.json.

    CONFIG is that of the training which ends each round: SFT on the set with the winners or, with an objective on
    preferences, on each prompt's best answer above its worst. A round starts from the model of MODELS that answers
    EVALUATION_SET best. Every file and model is opened first, and a wrong one is refused; a reward that is a function
    is called once. A judge is asked when the round is scored; --ask-judge asks it once now. `tigerjax align set`
    changes settings later.

    Example: tigerjax align init configs/quickstart_rejection_sampled.py --out runs/align --sft sft.jsonl \
--models runs/sft --reward runs/reward/model --evaluation-set dev.jsonl
    """
    from tigerjax.align import inputs as inputs_lib
    from tigerjax.align import settings as settings_lib

    run = override(config)  # a wrong config is refused now and not in the first round
    settings = settings_lib.AlignSettings(
        config=str(paths.resolved(config.path)),
        overrides=config.overrides,
        align=dataclasses.asdict(align),
        sampling=dataclasses.asdict(sampling),
        score_batch_size=score_batch_size,
        **inputs.resolved(),
    )
    inputs_lib.check(settings, run, ask_judge=ask_judge)
    settings_lib.write(out, settings)
    if not ask_judge:
        inputs_lib.say_not_asked(settings.reward)
    show({"plan": str(out / settings_lib.FILE), "models": len(inputs.models)}, json)


# One parameter for each group of settings and each option of the command.
def change(
    dir: Folder,
    inputs: Annotated[dict[str, Any], Changes(AlignInputs)],
    align: Annotated[dict[str, Any], Changes(AlignConfig, "align.")],
    sampling: Annotated[dict[str, Any], Changes(SamplingOptions)],
    config: Annotated[dict[str, Any], Changes(RunConfig)],
    score_batch_size: Count | None = None,
    again: bool = False,
    ask_judge: bool = False,
    json: Path | None = None,
) -> None:
    """Changes settings of an alignment that no finished step of the round under way has used.

    Fields of the config are overridden as in `align init`. Rounds that have ended stay as they are: the next reward
    enters the next round. A judge is asked when the round is scored; --ask-judge asks it once now, also where nothing
    is changed. --again also changes what has been used; those steps, and the ones after them, are then done again.

    Example: tigerjax align set runs/align --align.allow-partial --reward runs/reward2/model
    """
    from tigerjax.align import inputs as inputs_lib
    from tigerjax.align import settings as settings_lib

    given = {name: resolved(name, value) for name, value in inputs.items()} | align | sampling
    given |= {} if score_batch_size is None else {"score_batch_size": score_batch_size}
    if not given and not config and not ask_judge:
        raise ConfigError(f"nothing to change; `tigerjax align set {dir} --help` lists the settings")
    old, new = settings_lib.read(dir), settings_lib.changed(dir, given, again=again)
    new = settings_lib.overridden(dir, new, config, again=again)
    inputs_lib.check(new, override(_config(new)), ask_judge=ask_judge)
    settings_lib.replace(dir, new)
    if "reward" in given and not ask_judge:
        inputs_lib.say_not_asked(new.reward)
    before, after = ({**s.align, **s.sampling, **dataclasses.asdict(s)} for s in (old, new))
    shown = [*given, *(["overrides"] if old.overrides != new.overrides else [])]
    show({name: f"{before[name]} -> {after[name]}" for name in shown}, json)


def prompts(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Chooses the best model and draws the prompts, for the round under way or the next one.

    Example: tigerjax align prompts runs/align
    """
    _step(dir, "prompts", hosts, json)


def sample(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Samples n answers to each prompt of the round from its candidate model; a restart continues.

    Example: tigerjax align sample runs/align
    """
    _step(dir, "sample", hosts, json)


def score(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Scores every sampled answer and the existing answers with the reward of the alignment.

    Example: tigerjax align score runs/align
    """
    _step(dir, "score", hosts, json)


def queue(dir: Folder, json: Path | None = None) -> None:
    """Writes the questions to people, without scores: JSONL, Markdown, a Label Studio project.

    Example: tigerjax align queue runs/align
    """
    _step(dir, "queue", ALONE, json)


def import_labels(dir: Folder, labels: tuple[Path, ...] = (), json: Path | None = None) -> None:
    """Imports label files.

    Exit 3 when a line is wrong, and nothing is imported; exit 4 while labels are missing. A file is JSONL or Label
    Studio's JSON export. Files may be imported one after another. Without --labels the files that were imported before
    are read again.

    Example: tigerjax align import runs/align --labels answers.jsonl
    """
    take_labels(dir, labels, json)


def take_labels(dir: Path, labels: Sequence[Path], json: Path | None, more: Mapping[str, int] = {}) -> None:
    """`import_labels`, with `more` beside the figures."""
    _step(dir, "labels", ALONE, json, labels, more)


def rank(dir: Folder, json: Path | None = None) -> None:
    """Orders each prompt's answers: edited ones, then by people's ranking, then by score.

    Writes preferences for the next reward model too.

    Example: tigerjax align rank runs/align
    """
    _step(dir, "rank", ALONE, json)


def mix(dir: Folder, json: Path | None = None) -> None:
    """Adds the winners to the SFT set; exit 5 when there are none.

    Example: tigerjax align mix runs/align
    """
    _step(dir, "mix", ALONE, json)


def train(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Trains the next model from the current one on the mixed set; a restart continues.

    Example: tigerjax align train runs/align
    """
    _step(dir, "train", hosts, json)


def gate(dir: Folder, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Compares the new model with the current one and ends the round; exit 5: it is refused.

    Example: tigerjax align gate runs/align
    """
    _step(dir, "gate", hosts, json)


def run(dir: Folder, rounds: Count = 1, hosts: HostsConfig = AUTO, json: Path | None = None) -> None:
    """Runs rounds 1 to ROUNDS, continuing where they stopped; exit 4 when labels are missing.

    Later rounds do not use a model that the gate refused. Exit 5 when the model of the last round is refused. On
    several hosts run the same command on each.

    Example: tigerjax align run runs/align --rounds 2
    """
    from tigerjax.processes import hosts as processes

    processes.start(hosts)
    figures: list[dict[str, Any]] = []
    last = None
    with processes.together(), processes.alone_in(dir):
        project = open_project(dir)
        for index in range(1, rounds + 1):
            _until(project, index, "gate")
            last = project.ended(index)
            figures.append({"round": index} | last.figures | {"checkpoint": str(last.checkpoint), "sft": str(last.sft)})
            if processes.is_writer():
                save({"rounds": figures}, json)
    if processes.is_writer():
        status(dir)
    if last is not None and not last.accepted:
        raise GateFailed(f"round {rounds:02d}: the new model is refused: {'; '.join(last.figures['reasons'])}")


def status(dir: Folder, json: Path | None = None) -> None:
    """Shows a table of the rounds: which steps are done, with their counts.

    Below it is how each ended round ended: the gate's verdict, the win rate, the accuracies before and after, and the
    model that the next round starts from.

    Example: tigerjax align status runs/align
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tigerjax.align import settings, steps, summary

    settings.read(dir)  # so that a wrong folder gives an error and not an empty table
    table, figures = Table("round", "step", "state", "counts"), []
    for folder in steps.folders(dir / "rounds"):
        for place, line in enumerate(steps.status(folder)):
            figures.append({"round": int(folder.name)} | line)
            counts = as_text(line["counts"]) if line["counts"] else ""
            cells = (folder.name if not place else "", line["step"], line["state"], counts)
            table.add_row(*(Text(printable(cell)) for cell in cells))  # in a str, Rich reads markup such as [bold]
    Console().print(table if figures else "no round has begun")
    ended = summary.outcomes(dir)
    for outcome in ended:
        to_terminal(f"round {outcome['round']:02d}: {_in_words(outcome)}")
    save({"steps": figures, "rounds": ended}, json)


def _in_words(outcome: dict[str, Any]) -> str:
    """How a round ended, in lines; `outcome` is one of `summary.outcomes`."""
    from tigerjax.pages.numbers import number, percent

    counts = ", ".join(f"{name} {count}" for name, count in outcome.get("held_out", {}).items())
    lines = [
        f"{outcome['gate']} by the gate",
        f"win rate          {percent(outcome['win_rate'])}{f' ({counts})' if counts else ''}",
        f"held-out accuracy {percent(outcome['accuracy_before'])} -> {percent(outcome['accuracy_after'])}",
        f"mean reward       {number(outcome['reward_before'])} -> {number(outcome['reward_after'])}",
        *(f"refused because   {reason}" for reason in outcome["reasons"]),
        *([f"note              {outcome['note']}"] if "note" in outcome else []),
        *([_control(outcome["control"])] if "control" in outcome else []),
        *([f"below a floor     {as_text(outcome['below_floor'])}"] if "below_floor" in outcome else []),
        f"next model        {outcome['checkpoint']}",
    ]
    return "\n  ".join(lines)


def _control(control: dict[str, float]) -> str:
    """The line about the control of a round, which got random winners."""
    from tigerjax.pages.numbers import number, percent

    figures = f"held-out accuracy {percent(control['accuracy'])}, mean reward {number(control['reward'])}"
    return f"random winners    {figures}; the new model wins {percent(control['win_rate'])} against them"


def open_project(dir: Path) -> Any:
    """The project.Project of a folder, after a check that all hosts read the same settings."""
    from tigerjax.align import project
    from tigerjax.align import settings as settings_lib
    from tigerjax.processes import hosts

    settings = settings_lib.read(dir)
    hosts.same("the alignment", dataclasses.asdict(settings))
    return project.Project(dir, settings, override(_config(settings)), progress=show_progress)


def _config(settings: Any) -> ConfigFile:
    """The config file and the words that `align init` was given."""
    return ConfigFile(Path(settings.config), settings.overrides, "tigerjax align")


def _step(
    dir: Path,
    step: str,
    hosts: HostsConfig,
    json: Path | None,
    labels: Sequence[Path] = (),
    more: Mapping[str, int] = {},
) -> None:
    """Runs one step of the round under way, and shows its figures and `more`; ConfigError when an earlier step is
    missing."""
    from tigerjax.align.people import desk
    from tigerjax.align.steps import STEPS
    from tigerjax.files import manifest
    from tigerjax.processes import hosts as processes

    processes.start(hosts)
    with processes.together(), processes.alone_in(dir):
        project = open_project(dir)
        index = project.under_way()
        processes.same("the round under way", index)
        if (labels and (taker := project.delivery.taker(index)) > index) or project.delivery.all_late(index, labels):
            taken = project.delivery.take(index, labels)
            show({"round": taker, "step": step, "files_for_the_next_round": taken, **more}, json)
            return
        project.require(index, step, {name: "import" if name == "labels" else name for name in STEPS})
        if labels:
            project.delivery.take(index, labels)
        if step == "labels":
            desk.write_adjudicator(dir, project.align, index)
        _until(project, index, step)
    done = manifest.read(project.rounds / f"{index:02d}" / step) or {}
    figures = {"round": index, "step": step} | done.get("counts", {}) | done.get("figures", {}) | {**more}
    ended = project.ended(index) if step == "gate" else None
    if ended is not None:
        figures |= {key: value for key, value in ended.figures.items() if key != "counts"}
        figures |= {"checkpoint": str(ended.checkpoint)}
    if processes.is_writer():
        show(figures, json)
    if ended is not None and not ended.accepted:
        raise GateFailed("the new model is refused, the current one stays: " + "; ".join(ended.figures["reasons"]))


def _until(project: Any, index: int, step: str) -> None:
    """Runs a round up to a step. When labels are missing, the error names the file with the questions."""
    try:
        project.until(index, step)
    except Blocked as error:
        queue = project.rounds / f"{index:02d}" / "queue"
        if project.align.people:
            raise Blocked(
                f"{error}: each person's questions are in {queue / 'people'}, and `tigerjax align people push"
                f" {project.folder}` brings them to Label Studio; `tigerjax align people status {project.folder}` shows"
                f" who is late; to go on without them, `tigerjax align set {project.folder} --align.allow-partial`"
            ) from error
        raise Blocked(
            f"{error}: read {queue / 'queue.md'}, fill in a copy of template.jsonl beside it, then"
            f" `tigerjax align import {project.folder} --labels FILE`; to continue without people,"
            f" `tigerjax align set {project.folder} --align.allow-partial`"
        ) from error
