"""The command that serves a model over HTTP."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tigerjax.command.chat import scores
from tigerjax.command.groups import ONE_DEVICE, OPENING, OpeningOptions
from tigerjax.command.options import FLAT, OnDisk
from tigerjax.command.progress import show_elapsed
from tigerjax.config import MeshConfig
from tigerjax.config.ranges import Count, CountOrZero, PositiveShare, Range
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.terminal import one_line, show, tell

if TYPE_CHECKING:
    from tigerjax.checkpoint.loaded import Loaded
    from tigerjax.serve.service import Served

Seconds = Annotated[float, Range(0, 86_400)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SlotOptions:
    """How much is answered at one time."""

    slots: Count = 16  # Answers that are decoded side by side
    context: Annotated[int, Range(2, 2**24)] | None = None  # Tokens of a prompt and its answer together
    queue: Count = 256  # Requests that may wait for a slot; one more gets the status 429
    kept_mb: Annotated[float, Range(0, 1e6)] = 512.0  # Memory for prompts that were read before, in megabytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """What holds for a request that says nothing of it."""

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

    name: str | None = None  # The model's id in requests and answers
    reward_model: Path | None = None  # Reward model that scores answers at /v1/score
    labels: OnDisk | None = None  # Folder for labels.jsonl, to which the page writes what people keep and edit


def serve(
    model: Annotated[Path, "positional"],
    opening: Annotated[OpeningOptions, FLAT] = OPENING,
    at: Annotated[AddressOptions, FLAT] = AddressOptions(),
    slots: Annotated[SlotOptions, FLAT] = SlotOptions(),
    answers: Annotated[AnswerOptions, FLAT] = AnswerOptions(),
    beside: Annotated[BesideOptions, FLAT] = BesideOptions(),
    mesh: MeshConfig = ONE_DEVICE,
    dry_run: bool = False,
) -> None:
    """Serves a model over HTTP: a page to talk to it, and an API that OpenAI's clients speak.

    MODEL is a run, one of its checkpoints, or a Hugging Face folder; of a quick start or an alignment it is the last
    round's. Only programs of this machine reach the server, unless --host says otherwise. A key comes from
    --api-key-file or the variable TIGERJAX_API_KEY. Ctrl-C and SIGTERM end it in order. docs/SERVING.md says more.

    Example: tigerjax serve runs/quickstart --port 8000
    """
    with _packages():
        from tigerjax.serve import keys as keys_of
        from tigerjax.serve import server
    from tigerjax.mesh import mesh_of_several

    keys = keys_of.read(at.api_key_file, os.environ)
    devices = mesh_of_several(mesh)
    loopback = server.is_loopback(at.host)
    socket = server.bound(at.host, at.port)
    name = beside.name or _name(model)
    if not loopback and not keys:
        tell(f"warning: everybody who reaches {at.host} can use this server; give --api-key-file")
    if dry_run:
        socket.close()
        return _rehearse(model, beside, f"{name} at http://{at.host}:{at.port}", len(keys))
    with contextlib.ExitStack() as stack:
        served = _served(model, name, opening, slots, answers, beside, devices, at.log_prompts, stack)
        host, port = socket.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        from tigerjax.serve.app import app
        from tigerjax.serve.guard import Limits, Rules

        made = app(
            served,
            Limits(body_bytes=int(at.body_mb * 1e6), request_s=at.request_s),
            Rules(keys=keys, loopback=loopback, log=True),
        )
        ready = f"{name} answers at http://{shown}:{port}/v1, and its page at http://{shown}:{port}; Ctrl-C ends it"
        server.serve(made, socket, drain_s=at.drain_s, request_s=at.request_s, ready=lambda: show(ready))
        tell("ended: no request is running")
