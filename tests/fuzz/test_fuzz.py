"""Damaged files of every kind end every command with a right exit code and one line, and never as a shorter file.

The default suite tries a few examples, the same ones each time. `make fuzz` goes on for an hour with others. What it
finds is written to runs/fuzz/READER/KIND-HASH; moved into tests/fuzz/kept/, it is tried each time.
"""

import hashlib
import os
import secrets
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from reader import Damage, World, kept
from readers import READERS

EXAMPLES = 8
"""Of each reader and kind of damage, in the default suite."""
AT_ONCE = 100
"""At most, in `make fuzz`, before its clock is looked at: fewer of a reader so slow that its time would be over."""
MINUTES = float(os.environ.get("TIGERJAX_FUZZ_MINUTES", 0))
KEPT, FOUND = Path(__file__).parent / "kept", Path("runs/fuzz").resolve()
KINDS = [(name, kind) for name in READERS for kind in ("bytes", "values") if kind == "bytes" or READERS[name].json]
CASES = list(kept(KEPT))


@pytest.fixture(scope="module")
def worlds(tmp_path_factory):
    made = {}

    def world(name: str) -> World:
        if name not in made:
            made[name] = World(READERS[name], tmp_path_factory.mktemp("fuzz") / "of")
        return made[name]

    return world


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    """A current folder in which nothing lies."""
    monkeypatch.chdir(tmp_path)


def keep(name: str, kind: str, damage: Damage) -> Path:
    digest = hashlib.sha256(repr(sorted(damage)).encode()).hexdigest()[:8]
    for file, data in damage.items():
        place = FOUND / name / f"{kind}-{digest}" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return FOUND / name


def search(world: World, name: str, kind: str, *, examples: int, fixed: bool) -> None:
    def example(data) -> None:
        damage = world.draw(data.draw, texts=kind == "values")
        if not fixed:
            keep("running", kind, damage)  # so that it is known which one ended the process, if one does
        try:
            problem = world.problem(damage, texts=kind == "values")
            assert not problem, problem
        except Exception:
            if not fixed:
                print(f"kept below {keep(name, kind, damage)}")
            raise

    phases = [Phase.generate] if fixed else [Phase.generate, Phase.shrink]
    how = settings(
        max_examples=examples, derandomize=fixed, database=None, deadline=None, phases=phases,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    test = how(given(st.data())(example))
    (test if fixed else seed(secrets.randbits(64))(test))()


@pytest.mark.parametrize(("name", "kind"), KINDS, ids=[f"{name}-{kind}" for name, kind in KINDS])
def test_a_damaged_file_is_one_line_and_an_exit_code_or_the_same_records(worlds, name, kind):
    world = worlds(name)
    if not MINUTES:
        search(world, name, kind, examples=EXAMPLES, fixed=True)
    began, examples = time.monotonic(), EXAMPLES
    until = began + 60 * MINUTES / len(KINDS)
    while (now := time.monotonic()) < until:
        search(world, name, kind, examples=examples, fixed=False)
        each_s = (time.monotonic() - now) / examples
        examples = max(1, min(AT_ONCE, int((until - time.monotonic()) / each_s)))


@pytest.mark.parametrize(("name", "texts", "damage"), CASES, ids=[f"{c[0]}-{n}" for n, c in enumerate(CASES)])
def test_what_was_found_once_stays_mended(worlds, name, texts, damage):
    assert not worlds(name).problem(damage, texts=texts)
