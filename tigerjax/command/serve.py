"""The command that serves a model over HTTP."""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tigerjax.command.chat import check_reward, reward_scorer
from tigerjax.command.figures import save
from tigerjax.command.groups import ONE_DEVICE, OPENING, OpeningOptions
from tigerjax.command.options import FLAT, OnDisk, OutFolder
from tigerjax.command.progress import show_elapsed
from tigerjax.config import MeshConfig
from tigerjax.config.ranges import Count, CountOrZero, PositiveShare, Range
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.terminal import one_line, show, tell

if TYPE_CHECKING:
    from tigerjax.checkpoint.loaded import Loaded
    from tigerjax.serve.service import ScoreTexts

Seconds = Annotated[float, Range(0, 86_400)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How much is answered at one time, and what holds for a request that says nothing of it."""

    slots: Count = 16  # Answers that are decoded side by side
    context: Annotated[int, Range(2, 2**24)] | None = None  # Tokens of a prompt and its answer together
    queue: Count = 256  # Requests that may wait while all slots are taken; one more gets the status 429
    kept_mb: Annotated[float, Range(0, 1e6)] = 512.0  # Memory for prompts that were read before, in megabytes
    temperature: Annotated[float, Range(0, 100)] = 0.9  # Divides the logits: 0 takes the likeliest token
    top_p: PositiveShare = 0.95  # Only the likeliest tokens that have this share of the probability
    top_k: CountOrZero = 0  # Only so many of the likeliest tokens; 0 is no limit
    max_new_tokens: Count = 512  # The longest answer that a request may ask for


@dataclasses.dataclass(frozen=True, kw_only=True)
class AddressOptions:
    """Where the server listens, and to whom."""

    host: str = "127.0.0.1"  # Address to listen at; 0.0.0.0 is every network of this machine
    port: Annotated[int, Range(0, 65_535)] = 8000  # Port to listen at; 0 takes a free one
    api_key_file: OnDisk | None = None  # File with a key on each line; requests must send one of them
    body_mb: Annotated[float, Range(0, 1000, above=True)] = 1.0  # The longest request, in megabytes
    request_s: Annotated[float, Range(0, 3600, above=True)] = 30.0  # Seconds in which a request must have arrived
    drain_s: Seconds = 30.0  # Seconds that running answers have to end after SIGTERM
    log_prompts: bool = False  # Write requests and answers to standard error too, and not only their counts


@dataclasses.dataclass(frozen=True, kw_only=True)
class BesideOptions:
    """What the server has beside the model."""

    served_name: str | None = None  # The model's id in requests and answers
    reward_model: Path | None = None  # Reward model that scores answers at /v1/score
    labels: OutFolder | None = None  # Folder for labels.jsonl, to which the page writes what people keep and edit


ANSWERS, AT, BESIDE = AnswerOptions(), AddressOptions(), BesideOptions()
"""The defaults."""


def serve(
    model: Annotated[Path, "positional"],
    opening: Annotated[OpeningOptions, FLAT] = OPENING,
    at: Annotated[AddressOptions, FLAT] = AT,
    answers: Annotated[AnswerOptions, FLAT] = ANSWERS,
    beside: Annotated[BesideOptions, FLAT] = BESIDE,
    mesh: MeshConfig = ONE_DEVICE,
    dry_run: bool = False,
    json: Path | None = None,
) -> None:
    """Serves a model over HTTP: a page to talk to it, and an API that OpenAI's clients speak.

    MODEL is a run, one of its checkpoints, or a Hugging Face folder; of a quick start or an alignment it is the last
    round's. Only programs of this machine reach the server, unless --host says otherwise. A key comes from
    --api-key-file or the variable TIGERJAX_API_KEY. Ctrl-C and SIGTERM end it in order; then --json has its counts.
    --dry-run checks options, keys, port, mesh and reward model, and says what would be served. docs/SERVING.md says
    more.

    Example: tigerjax serve runs/quickstart --port 8000
    """
    try:
        from tigerjax.serve import server
    except ImportError as error:
        raise ConfigError(f"tigerjax serve needs more packages ({error}): pip install 'tigerjax[serve]'") from error
    from tigerjax.mesh import mesh_of_several
    from tigerjax.serve import keys as keys_of
    from tigerjax.serve.app import app
    from tigerjax.serve.asked import ServeBatching
    from tigerjax.serve.engine import Engine
    from tigerjax.serve.guard import Limits, Rules
    from tigerjax.serve.labels import Labels
    from tigerjax.serve.metrics import ServerMetrics
    from tigerjax.serve.opened import open_to_talk
    from tigerjax.serve.service import Defaults, Served

    keys, loopback = keys_of.read(at.api_key_file, os.environ), server.is_loopback(at.host)
    socket = server.bound(at.host, at.port)
    if not loopback and not keys:
        tell(f"warning: everybody who reaches {one_line(at.host)} can use this server; give --api-key-file")
    devices = mesh_of_several(mesh)
    if beside.served_name is not None and not beside.served_name.strip():
        raise ConfigError("--served-name is empty; give the model's id, or leave it out for the name of its folder")
    if beside.reward_model is not None:
        check_reward(beside.reward_model)
    if dry_run:
        socket.close()
        return _rehearse([model, opening.tokenizer, beside.reward_model], at, beside, len(keys))
    host, port = socket.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    with contextlib.ExitStack() as stack:
        loaded = open_to_talk(model, **vars(opening), mesh=devices)
        score = None if beside.reward_model is None else _scores(beside.reward_model, loaded)
        labels = None if beside.labels is None else stack.enter_context(Labels.open(beside.labels, loaded.sha256))
        given = dataclasses.asdict(answers)
        batching = ServeBatching(**{name: given.pop(name) for name in ("slots", "context", "queue", "kept_mb")})
        loaded.say_past(batching.context_of(loaded), model)
        engine = Engine(loaded, batching=batching)
        stack.callback(engine.close)
        served = Served(
            name=_name(model, beside),
            sha256=loaded.sha256,
            tokenizer=loaded.tokenizer,
            engine=engine,
            defaults=Defaults(**given),
            score=score,
            labels=labels,
            log_prompts=at.log_prompts,
        )
        del loaded  # the engine has the weights as it reads them
        with show_elapsed("compiling"):
            engine.warm()
        limits = Limits(body_bytes=int(at.body_mb * 1e6), request_s=at.request_s)
        metrics = ServerMetrics()
        made = app(served, metrics, limits, Rules(keys=keys, loopback=loopback, log=True))
        ready = f"{served.name} answers at {url}/v1, and its page is {url}/ (Ctrl-C ends the server)"
        server.serve(made, socket, drain_s=at.drain_s, request_s=at.request_s, ready=lambda: show(ready))
    tell("the server has ended; no request is running")
    save(metrics.figures(), json)


def _name(model: Path, beside: BesideOptions) -> str:
    """The model's id: the name of its folder, where no other is given."""
    return beside.served_name or (model if paths.on_bucket(model) else model.resolve()).name or "model"


def _rehearse(inputs: Sequence[Path | None], at: AddressOptions, beside: BesideOptions, keys: int) -> None:
    """Says what would be served; the first of the inputs is the model. DataError for one that is not there."""
    model, *others = [place for place in inputs if place is not None]
    for place in (model, *others):
        if not paths.matching(place):
            raise DataError(f"{place}: no such file or folder; give another path")
    show(f"would serve {_name(model, beside)} at http://{one_line(at.host)}:{at.port}")
    for place in (model, *others):
        show(f"  reads   {place}")
    if beside.labels is not None:
        show(f"  writes  {beside.labels}")
    show(f"  keys    {keys or 'none: requests need no key'}")


def _scores(place: Path, model: "Loaded") -> "ScoreTexts":
    """The calibrated scores of a reward model, which reads the tokenizer of the model."""
    from tigerjax.align.answers import Existing

    scorer = reward_scorer(place, model)
    return lambda messages, answers: scorer([Existing(messages, text, "stop") for text in answers])
