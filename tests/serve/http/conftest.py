"""One server a session, on the tiny random model."""

import dataclasses
from collections.abc import Iterator

import httpx2
import pytest
import tiny_weights
from bytes_tokenizer import Bytes
from live_server import BATCHING, DEFAULTS, Live, listening, scores

from tigerjax.serve.engine import Engine
from tigerjax.serve.labels import Labels
from tigerjax.serve.service import Served


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    made = Engine(tiny_weights.make().loaded(tokenizer=Bytes(), sha256="5" * 64), batching=BATCHING)
    made.warm()
    yield made
    made.close()


@pytest.fixture(scope="session")
def served(engine) -> Served:
    model = engine.model
    return Served(
        name="tiny",
        sha256=model.sha256,
        tokenizer=model.tokenizer,
        engine=engine,
        defaults=DEFAULTS,
        score=scores,
    )


@pytest.fixture(scope="session")
def live(served, tmp_path_factory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("labels")
    with Labels.open(folder, served.sha256) as labels:
        whole = dataclasses.replace(served, labels=labels)
        with listening(whole) as url, httpx2.Client(base_url=url, timeout=60, verify=False) as client:
            yield Live(url, whole, labels.path, client)
