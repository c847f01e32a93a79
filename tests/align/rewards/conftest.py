"""A judge on loopback, and a part of a reward that asks it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fake_api
import pytest

from tigerjax.align.rewards import requests
from tigerjax.align.rewards.config import JudgeConfig


@pytest.fixture
def fake(monkeypatch) -> Iterator[fake_api.Fake]:
    monkeypatch.setattr(requests, "FIRST_WAIT_S", 0.01)
    monkeypatch.setenv("no_proxy", "*")
    with fake_api.listening() as made:
        yield made


@pytest.fixture
def config_of(fake, tmp_path: Path) -> Callable[..., JudgeConfig]:
    """A judge at the fake, with a template; keywords replace fields."""
    (tmp_path / "judge.md").write_text("Q: {{question}}\nA: {{answer}}\nEnd with `Score: N`.")
    given = {"url": fake.url, "model": "m", "template": str(tmp_path / "judge.md"), "lowest": 1, "highest": 10}
    given |= {"cache": str(tmp_path / "replies"), "calls": 2, "patience_s": 20}
    return lambda **changed: JudgeConfig(**given | changed)
