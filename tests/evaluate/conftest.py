"""The stand-in for a model, as a fixture."""

import pytest
from text_model import StandIn


@pytest.fixture
def stand_in():
    return StandIn
