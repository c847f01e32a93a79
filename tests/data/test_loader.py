"""The loader: shares at every prefix, exact resume, disjoint hosts."""

import itertools
import json
import random
import subprocess
import sys

import numpy as np
import pytest

from tigerjax.data import row_files
from tigerjax.data.loader import Loader
from tigerjax.data.rows import make_row
from tigerjax.data.schedule import Phase, order
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest

L = 6
RATES = {"zh": 0.45, "en": 0.45, "instruct": 0.1}
ROWS = {"zh": 23, "en": 17, "instruct": 5}


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Three sources; the first token of a row is its number, the second its source."""
    folders = {}
    for s, (name, count) in enumerate(ROWS.items()):
        folder = folders[name] = tmp_path_factory.mktemp("cache") / name
        with manifest.stage(folder, name="cache", config={"task": name}, inputs=[]) as run:
            rows = [make_row([i, s, 5, 6, 7, 2], [1] * L, [1] * L) for i in range(count)]
            run.figures = row_files.write(run.tmp, rows) | {"seq_len": L, "tokenizer_sha256": "x"}
    return folders


def make(caches, *, batch_rows=4, seed=3, **more):
    return Loader(caches, RATES, batch_rows, L, seed, **more)


def ids(batch):
    return [tuple(row[:2].tolist()) for row in batch.tokens_BT]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_of_the_schedule_is_within_one_row_of_every_share(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(1, 9))
    rates = rng.dirichlet([rng.choice([0.2, 1.0, 5.0])] * k)
    counts = np.zeros(k)
    for n, chosen in enumerate(itertools.islice(order([phase(rates * 7)]), 2000), 1):
        counts[int(chosen)] += 1
        assert np.abs(rates * n - counts).max() < 1


def phase(rates, **more):
    return Phase({str(i): rate for i, rate in enumerate(rates)}, **more)


RECIPES = {
    "one source a language": [0.05, 0.475, 0.475],
    "eight sources": [0.05, *(0.475 * w for w in (0.6, 0.3, 0.1)), *(0.475 * w for w in (0.5, 0.25, 0.2, 0.05))],
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("length", [2048, 4096])
def test_each_window_of_1m_tokens_is_within_half_a_point_and_of_100m_within_a_twentieth(name, length):
    rates = RECIPES[name]
    windows = {10**6: 0.005, 10**8: 0.0005}
    rows = max(windows) // length + 10_000
    given = np.fromiter(map(int, itertools.islice(order([phase(rates)]), rows)), int)
    counts = np.stack([np.concatenate([[0], np.cumsum(given == i)]) for i in range(len(rates))])
    for tokens, most in windows.items():
        n = -(-tokens // length)  # whole rows
        shares = (counts[:, n:] - counts[:, :-n]) / n  # of every window, wherever it begins
        assert np.abs(shares - np.array(rates)[:, None]).max() <= most, tokens


def test_the_schedule_of_two_sources_takes_the_larger_deficit():
    assert "".join(itertools.islice(order([phase([0.75, 0.25])]), 8)) == "00100010"


def test_one_epoch_yields_every_row_once_and_the_next_in_another_order(caches):
    loader = Loader({"zh": caches["zh"]}, {"zh": 1}, 1, L, seed=0)
    epochs = [[ids(next(loader))[0][0] for _ in range(ROWS["zh"])] for _ in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(ROWS["zh"]))
    assert epochs[0] != epochs[1] and epochs[0] != list(range(ROWS["zh"]))


def test_the_order_depends_on_the_seed_only(caches):
    assert ids(next(make(caches))) == ids(next(make(caches)))
    assert ids(next(make(caches))) != ids(next(make(caches, seed=4)))


def test_resume_at_100_random_points_is_bit_equal(caches):
    whole = make(caches)
    batches, states = [], [json.dumps(whole.state())]
    for _ in range(120):
        batches.append(next(whole))
        states.append(json.dumps(whole.state()))
    for at in random.Random(0).sample(range(120), 100):
        resumed = make(caches)
        resumed.restore(json.loads(states[at]))
        assert same(next(resumed), batches[at])
        assert json.dumps(resumed.state()) == states[at + 1]
    assert len(states[-1]) < len(states[0]) + 20  # the state does not grow


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_are_disjoint_and_cover_the_batch_of_one_host(caches, hosts):
    local = 4 // hosts
    one, many = make(caches), [make(caches, mine=range(h * local, (h + 1) * local)) for h in range(hosts)]
    for _ in range(30):
        parts = [next(loader) for loader in many]
        assert same(next(one), [np.concatenate(arrays) for arrays in zip(*parts, strict=True)])
    assert [loader.state() for loader in many] == [one.state()] * hosts


def test_seen_reports_tokens_shares_and_epochs(caches):
    loader = make(caches)
    for _ in range(50):
        next(loader)
    seen = loader.seen()
    assert sum(s["tokens"] for s in seen.values()) == 50 * 4 * L
    assert {name: round(s["share"], 3) for name, s in seen.items()} == RATES
    assert seen["instruct"]["epoch"] == 20 / 5


def test_a_checkpoint_of_other_rows_is_refused(caches):
    state = make(caches).state()
    with pytest.raises(ConfigError, match="data seed was 3"):
        make(caches, seed=4).restore(state)
    state["rows_sha256"] = {**state["rows_sha256"], "zh": "another"}
    with pytest.raises(ConfigError, match="data rows_sha256"):
        make(caches).restore(state)


def test_an_exhausted_source_stops_the_run(caches):
    loader = make(caches, max_epochs={"instruct": 2})
    with pytest.raises(ConfigError, match="instruct is exhausted: 5 rows x max_epochs=2"):
        for _ in range(200):
            next(loader)
    assert loader.state()["counts"]["instruct"] <= 10


def test_caches_that_do_not_fit_are_refused(caches, tmp_path):
    with pytest.raises(DataError, match="no cached rows"):
        Loader({"zh": tmp_path}, {"zh": 1}, 1, L, 0)
    with pytest.raises(DataError, match=r"rows of 6 tokens, but data.seq_len=7"):
        Loader({"zh": caches["zh"]}, {"zh": 1}, 1, 7, 0)
    with pytest.raises(ConfigError, match=r"rows \[3, 4\] of a batch of batch_rows=4"):
        make(caches, mine=[3, 4])
    with pytest.raises(ConfigError, match="must name the same tasks"):
        Loader(caches, {"zh": 1}, 1, L, 0)


def test_loader_and_rows_import_without_tensorflow_and_seqio():
    code = (
        "import sys; sys.modules.update(tensorflow=None, seqio=None); import tigerjax.data.loader, tigerjax.data.rows,"
        " tigerjax.data.mixture; from array_record.python import array_record_module"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
