"""The tiny random model, for what talks to a model."""

import pytest
import tiny_weights


@pytest.fixture(scope="session")
def tiny() -> tiny_weights.Tiny:
    return tiny_weights.make()
