"""The command to talk to a model in a terminal."""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tigerjax.command.figures import save
from tigerjax.command.groups import ONE_DEVICE, OPENING, TALK, OpeningOptions, TalkOptions
from tigerjax.command.options import FLAT
from tigerjax.command.progress import show_elapsed
from tigerjax.config import MeshConfig
from tigerjax.config.ranges import Seed

if TYPE_CHECKING:
    from tigerjax.align.reward import Scorer
    from tigerjax.checkpoint.loaded import Loaded
    from tigerjax.serve.chat import ScoreChat

SCORED_TOGETHER = 8


def chat(
    model: Annotated[Path, "positional"],
    opening: Annotated[OpeningOptions, FLAT] = OPENING,
    talk: Annotated[TalkOptions, FLAT] = TALK,
    system: str | None = None,
    reward_model: Path | None = None,
    mesh: MeshConfig = ONE_DEVICE,
    seed: Seed = 0,
    json: Path | None = None,
) -> None:
    """Talks to a model in the terminal.

    MODEL is a run, one of its checkpoints, or a Hugging Face folder; of a quick start or an alignment it is the last
    round's. Answers come as they are drawn, and keys and values of the conversation are kept. /help lists what can be
    changed while you talk, such as /n 4 for four answers side by side; Ctrl-C stops an answer, Ctrl-D ends. With a
    question on standard input, only its answer is printed. --json keeps what was said. docs/CHAT.md says more.

    Example: tigerjax chat runs/quickstart
    """
    from tigerjax.mesh import mesh_of_several
    from tigerjax.serve.asked import ServeBatching
    from tigerjax.serve.chat import Chat, ChatSettings, refuse_base
    from tigerjax.serve.engine import Engine
    from tigerjax.serve.opened import open_to_talk
    from tigerjax.serve.screen import Screen, answer_input

    devices = mesh_of_several(mesh)  # first: a mesh that does not fit is found before anything is read
    given = dataclasses.asdict(talk)
    batching = ServeBatching(slots=talk.n, queue=1, context=given.pop("context"))
    settings = ChatSettings(**given, seed=seed)
    loaded = open_to_talk(model, **vars(opening), mesh=devices)
    refuse_base(loaded.tokenizer, model)
    score = None if reward_model is None else _scores(reward_model, loaded)
    loaded.say_past(batching.context_of(loaded), model)
    engine = Engine(loaded, batching=batching)
    del loaded  # the engine has the weights as it reads them
    conversation = Chat(engine, settings, system=system or "", score=score)
    try:
        if sys.stdin.isatty():
            with show_elapsed("compiling"):
                engine.warm(most=1)
            # What was said is written after each line: a terminal may be closed at any time.
            Screen(conversation, kept=lambda: save(conversation.record(), json)).talk()
        else:
            answer_input(conversation)
        save(conversation.record(), json)
    finally:
        conversation.close()


def check_reward(place: Path) -> None:
    """Raises what `reward_scorer` would of a model that is there and no reward model, before any weight is read."""
    from tigerjax.align.calibration import refuse_foreign
    from tigerjax.checkpoint.loaded import check_kind
    from tigerjax.checkpoint.stored import open_model

    refuse_foreign(place)
    check_kind(open_model(place), where=place, reward=True)


def reward_scorer(place: Path, model: "Loaded") -> "Scorer":
    """The scorer of the reward model at `place`, which reads the tokenizer of the model.

    Raises ConfigError for one that is not calibrated or has another tokenizer, and DataError where there is none.
    """
    from tigerjax.align import calibration
    from tigerjax.align.reward import Scorer
    from tigerjax.checkpoint.loaded import load
    from tigerjax.serve.asked import LONGEST

    reward = load(place, model.tokenizer, compute=model.compute, mesh=model.mesh, reward=True)
    calibration.check(reward.extra, place)
    return Scorer(reward, seq_len=min(reward.reach or LONGEST, LONGEST), rows=SCORED_TOGETHER)


def _scores(place: Path, model: "Loaded") -> "ScoreChat":
    """The calibrated scores of a reward model."""
    from tigerjax.align.answers import Answer, finite

    scorer = reward_scorer(place, model)

    def score(messages: Any, drawn: Any) -> list[float | None]:
        return [finite(one) for one in scorer([Answer(messages, d.text, d.finish) for d in drawn])]

    return score
