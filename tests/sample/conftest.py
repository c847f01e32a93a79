"""The tiny random model and prompts for the sampler's tests."""

import pytest
import tiny_weights


@pytest.fixture(scope="session")
def tiny() -> tiny_weights.Tiny:
    return tiny_weights.make()


@pytest.fixture(scope="session")
def prompts() -> list[dict]:
    """Seven prompts in two length buckets, in no order of length."""
    lengths = [5, 60, 12, 40, 3, 33, 20]
    return [{"prompt_id": f"p{i}", "text": chr(97 + i) * n, "task": f"t{i % 2}"} for i, n in enumerate(lengths)]
