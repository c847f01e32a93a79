"""The tiny random model and its engine, for what talks to a model."""

import dataclasses
from unittest import mock

import pytest
import tiny_weights

from tigerjax.serve import rows
from tigerjax.serve.engine import Engine, ServeBatching


@pytest.fixture(scope="session")
def tiny() -> tiny_weights.Tiny:
    return tiny_weights.make()


@pytest.fixture(scope="session")
def batching() -> ServeBatching:
    return ServeBatching(slots=4, context=96, chunk=16, kept_mb=0.2)


@pytest.fixture(scope="session")
def make_engine(tiny, batching):
    """An engine with caches of two lengths, as a long context has. All of them compile once."""
    made = []

    def make(**changes) -> Engine:
        with mock.patch.object(rows, "SHORTEST", 32):
            made.append(Engine(tiny.loaded(), batching=dataclasses.replace(batching, **changes)))
        assert made[-1]._rows.reaches == [32, 96]
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture(scope="session")
def engine(make_engine):
    made = make_engine()
    made.warm()
    return made
