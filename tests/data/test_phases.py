"""Mixtures whose shares move: exact shares at every prefix of each phase, exact resume, SeqIO's order, clear errors."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from tigerjax.config import DataConfig, DpoConfig
from tigerjax.config.files import load
from tigerjax.config.phases import refuse_late
from tigerjax.data import mixture, row_files, tasks
from tigerjax.data import moving as moving_shares
from tigerjax.data.loader import Loader
from tigerjax.data.rows import make_row
from tigerjax.data.schedule import Phase, needed, order
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, manifest

ROOT = Path(__file__).resolve().parents[2]
L = 6
ROWS = {"good": 5, "en": 17, "zh": 23}
BATCH = 4
PHASES = [
    Phase({"en": 0.5, "zh": 0.5}),
    Phase({"en": 0.2, "zh": 0.3, "good": 0.5}, 10 * BATCH, 6 * BATCH, {"en": 0.5, "zh": 0.5}),
    Phase({"good": 1.0}, 25 * BATCH),
]


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    folders = {}
    for s, (name, count) in enumerate(ROWS.items()):
        folder = folders[name] = tmp_path_factory.mktemp("cache") / name
        with manifest.stage(folder, name="cache", config={"task": name}, inputs=[]) as run:
            rows = [make_row([i, s, 5, 6, 7, 2], [1] * L, [1] * L) for i in range(count)]
            run.figures = row_files.write(run.tmp, rows) | {"seq_len": L, "tokenizer_sha256": "x"}
    return folders


def make(caches, phases=PHASES, **more):
    named = {name for phase in phases for name in phase.rates}
    return Loader({name: caches[name] for name in named}, phases, BATCH, L, 3, **more)


def ids(batch):
    return [tuple(row[:2].tolist()) for row in batch.tokens_BT]


@pytest.mark.parametrize("seed", range(20))
def test_every_prefix_of_a_ramp_and_of_what_follows_is_within_one_row_of_every_share(seed):
    rng = np.random.default_rng(seed)
    k = int(rng.integers(2, 9))
    before, after = (rng.dirichlet([rng.choice([0.2, 1.0, 5.0])] * k) for _ in range(2))
    before[0] = after[-1] = 0.0  # one comes, one goes
    ramp = int(rng.integers(1, 700))
    rates = [dict(zip(map(str, range(k)), side, strict=True)) for side in (after, before)]
    phase = Phase(rates[0], 0, ramp, rates[1])
    moved = np.minimum(np.arange(1000) + 0.5, ramp) / ramp
    shares = (before / before.sum())[:, None] * (1 - moved) + (after / after.sum())[:, None] * moved
    wanted, counts = np.cumsum(shares, axis=1), np.zeros(k)
    for n, name in enumerate(itertools.islice(order([phase]), 1000)):
        counts[int(name)] += 1
        assert np.abs(wanted[:, n] - counts).max() < 1, n


def test_shares_are_exact_at_every_prefix_of_each_phase(caches):
    loader, given = make(caches), []
    for _ in range(40):
        given += [("good", "en", "zh")[source] for _, source in ids(next(loader))]
    ends = [phase.first for phase in PHASES[1:]] + [len(given)]
    for phase, end in zip(PHASES, ends, strict=True):
        for n in range(1, end - phase.first + 1):
            so_far = given[phase.first : phase.first + n]
            for i, name in enumerate(phase.names):
                assert abs(so_far.count(name) - phase.wanted(i, n)) < 1
    assert given == list(itertools.islice(order(PHASES), len(given)))
    total = needed(PHASES, len(given))
    assert sum(total.values()) == pytest.approx(len(given))
    assert all(abs(given.count(name) - rows) < len(PHASES) for name, rows in total.items())


def test_resume_is_bit_equal_at_every_step_and_the_rows_of_a_source_go_on(caches):
    whole, states, batches = make(caches), [], []
    for _ in range(32):
        states.append(json.dumps(whole.state()))
        batches.append(ids(next(whole)))
    for at, state in enumerate(states):
        resumed = make(caches)
        resumed.restore(json.loads(state))
        assert json.dumps(resumed.state()) == state
        assert [ids(next(resumed)) for _ in range(min(3, 32 - at))] == batches[at : at + 3]
    en = [row for batch in batches for row, source in batch if source == 1]
    assert sorted(en[: ROWS["en"]]) == list(range(ROWS["en"]))  # an epoch goes on over the border of phases


def test_a_phase_that_has_not_begun_may_still_change_and_one_that_has_may_not(caches):
    plain = make(caches, PHASES[:1])
    for _ in range(10):
        next(plain)
    state = json.loads(json.dumps(plain.state()))
    assert "phases" not in state and "in_phase" not in state
    moving = make(caches)
    moving.restore(state)
    whole = make(caches)
    want = [ids(next(whole)) for _ in range(30)]
    assert [ids(next(moving)) for _ in range(20)] == want[10:]
    begun = json.loads(json.dumps(moving.state()))
    for other in (PHASES[:1], [PHASES[0], dataclasses.replace(PHASES[1], first=12 * BATCH)]):
        with pytest.raises(ConfigError, match="cannot resume exactly: data phases was"):
            make(caches, other).restore(begun)
    with pytest.raises(DataError, match=r"says that None rows of \['good'\] were read in this phase"):
        make(caches).restore({name: value for name, value in begun.items() if name != "in_phase"})


def test_the_shares_of_a_step_are_those_of_its_phase():
    ramp = PHASES[1]
    assert ramp.share("good", ramp.first) == 0 and ramp.share("good", ramp.first + ramp.ramp / 2) == 0.25
    assert ramp.share("good", ramp.first + ramp.ramp) == ramp.share("good", 99) == 0.5
    assert PHASES[2].share("zh", 200) == 0


@pytest.fixture(scope="session")
def moving(work, tmp_path_factory):
    """A config whose mixture becomes another one at step 4, and a third from step 6 to 8."""
    folder, tokenizer = tmp_path_factory.mktemp("phases"), str(work / "tokenizer")
    files = {}
    for name in ("a", "b", "c"):
        files[name] = folder / f"{name}.jsonl"
        jsonl.write_jsonl(files[name], ({"id": f"{name}{i}", "text": f"{name} {i} " * 30} for i in range(60)))
    given = {name: mixture.Source(path) for name, path in files.items()}
    for name, weights in {"begin": {"a": 1, "b": 1}, "middle": {"a": 1, "b": 3}, "anneal": {"c": 3, "a": 1}}.items():
        made = {f"phases.{key}": weight for key, weight in weights.items()}
        for key in weights:
            mixture.add_mixture(
                f"only_{key}", {tasks.add_documents_task(f"phases.{key}", given[key], tokenizer=tokenizer): 1}
            )
        mixture.add_mixture(f"phases_{name}", made)
    return DataConfig(
        mixture="phases_begin", modules=(), tokenizer=tokenizer, cache_dir=str(folder / "cache"), seq_len=32,
        phases=("4=phases_middle", "6-8=phases_anneal"),
    )  # fmt: skip


def test_seqio_yields_the_sources_of_a_moving_mixture_in_the_order_of_the_loader(moving):
    loader = mixture.open_loader(moving, batch_rows=2, seed=0)
    assert loader.names == ["phases.a", "phases.b", "phases.c"]
    assert [(phase.first, phase.ramp) for phase in loader.phases] == [(0, 0), (8, 0), (12, 4)]
    registered = mixture.add_moving(moving, batch_rows=2)
    assert registered.name == "phases_begin.4.phases_middle.6.8.phases_anneal"
    assert mixture.get_mixture(registered.name) is registered
    per_task = {task.name: tasks.task_rows(task, 32) for task in registered.tasks}
    dataset = registered.get_dataset(dict.fromkeys(tasks.FEATURES, 32), split="train", shuffle=False, num_epochs=1)
    met = set()
    for item, source in itertools.islice(zip(dataset.as_numpy_iterator(), order(loader.phases), strict=False), 30):
        assert item["tokens"].tolist() == next(per_task[source])[0].tolist()
        met.add(source)
    assert met == set(loader.names)


def test_a_later_mixture_with_the_same_files_goes_on_with_the_source_of_the_earlier_one(moving):
    file = mixture.row_maker(mixture.get_mixture("only_a").tasks[0]).patterns[0]
    other = mixture.row_maker(mixture.get_mixture("only_c").tasks[0]).patterns[0]

    def registered(name, **sources):
        mixture.pretraining(name, tokenizer=moving.tokenizer, sources=sources)

    registered("first", x=mixture.Source(file, weight=3, max_epochs=9))
    registered("second", y=mixture.Source(file, max_epochs=2), z=mixture.Source(other), lines=mixture.Source(
        file, text_unit="file"))  # fmt: skip
    data = dataclasses.replace(moving, mixture="first", phases=("3=second",))
    loader = mixture.open_loader(data, batch_rows=3, seed=0)
    assert loader.names == ["first.x", "second.lines", "second.z"]
    assert [task.name for task in mixture.tasks_of(data)] == loader.names
    assert loader.phases[1].rates == {"first.x": 1, "second.z": 1, "second.lines": 1}
    rows = loader.rows()["first.x"]
    mixture.open_loader(data, batch_rows=3, seed=0, total_rows=3 * (2 * rows - 6))  # 9 of phase one
    with pytest.raises(ConfigError, match=r"(?s)need more than max_epochs.*first\.x .* 2  EXHAUSTED"):
        mixture.open_loader(data, batch_rows=3, seed=0, total_rows=6 * rows)


def test_a_source_of_a_later_phase_that_would_not_last_is_found_before_the_start(moving):
    mixture.add_mixture("phases_short", {"phases.c": 1.0})
    source = mixture.Source(str(mixture.row_maker(mixture.get_mixture("only_c").tasks[0]).patterns[0]), max_epochs=0.5)
    tasks.add_documents_task("phases.c", source, tokenizer=moving.tokenizer)
    mixture.add_mixture("phases_short", {"phases.c": 1.0})
    data = dataclasses.replace(moving, phases=("4=phases_short",))
    mixture.open_loader(data, batch_rows=2, seed=0, total_rows=10)
    with pytest.raises(ConfigError, match=r"(?s)need more than max_epochs.*phases\.c .*EXHAUSTED"):
        mixture.open_loader(data, batch_rows=2, seed=0, total_rows=10_000)
    with pytest.raises(ConfigError, match=r"mixture 'phases_aneal' is not registered.*phases_anneal"):
        mixture.open_loader(dataclasses.replace(data, phases=("4=phases_aneal",)), batch_rows=2, seed=0)


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        (("anneal",), "'anneal' must be STEP=MIXTURE, or STEP-STEP=MIXTURE"),
        (("0=anneal",), "'0=anneal' must begin at step 1 or later"),
        (("9-8=anneal",), "second step must come after the first"),
        (("9-9=anneal",), "second step must come after the first"),
        (("8-12=a", "10=b"), "'10=b' begins before '8-12=a' is whole"),
        (("8=a", "8=b"), "'8=b' begins before '8=a' is whole"),
        (("8=a", "4=b"), "stand in the order of their steps"),
    ],
)
def test_phases_that_overlap_or_cannot_be_read_are_refused(moving, phases, says):
    with pytest.raises(ConfigError, match=f"data.phases: .*{says}"):
        dataclasses.replace(moving, phases=phases)


def test_a_temperature_flattens_the_shares_of_sources_of_different_size(tmp_path, work):
    for name, count in (("large", 90), ("small", 10)):
        made = ({"id": f"{name}{i}", "text": f"The {name} one, {i:02}. " * 30} for i in range(count))
        jsonl.write_jsonl(tmp_path / f"{name}.jsonl", made)
    sources = {name: mixture.Source(tmp_path / f"{name}.jsonl") for name in ("large", "small")}

    def shares(temperature):
        mixture.pretraining("warm", tokenizer=work / "tokenizer", sources=sources, temperature=temperature)
        if temperature == 2:
            with pytest.raises(ConfigError, match=r"those of warm\.large are not counted yet"):
                mixture.get_mixture("warm").get_rate(mixture.get_mixture("warm").tasks[0])
        data = DataConfig(
            mixture="warm", modules=(), tokenizer=str(work / "tokenizer"), cache_dir=str(tmp_path / "rows"), seq_len=32
        )
        loader = mixture.open_loader(data, batch_rows=1, seed=0)
        return [source.figures["tokens"] for source in loader.sources], list(loader.rates.values())

    (large, small), given = shares(2)
    assert given == pytest.approx([large**0.5 / (large**0.5 + small**0.5), small**0.5 / (large**0.5 + small**0.5)])
    assert shares(1)[1] == pytest.approx([large / (large + small), small / (large + small)])
    assert shares(1000)[1] == pytest.approx([0.5, 0.5], abs=0.001) and shares(None)[1] == [0.5, 0.5]
    with pytest.raises(ConfigError, match=r"temperature=0.5 must be in \[1, 1000\]"):
        shares(0.5)


def test_stats_show_the_shares_and_epochs_of_a_run_and_the_page_draws_them(moving, tmp_path):
    loader = mixture.open_loader(moving, batch_rows=2, seed=0)
    shown = moving_shares.figures(loader, 20)
    assert [phase["from_step"] for phase in shown["phases"]] == [0, 4, 6]
    assert [phase["whole_from_step"] for phase in shown["phases"]] == [0, 4, 8]
    assert shown["phases"][1]["shares"] == {"phases.a": 0.25, "phases.b": 0.75}
    assert sum(shown["of_the_run"].values()) == pytest.approx(1)
    given = list(itertools.islice(order(loader.phases), 40))
    for source in loader.sources:
        assert shown["epochs"][source.name] * source.rows == pytest.approx(given.count(source.name), abs=3)
    assert moving_shares.points(loader.phases, "phases.c", 2, 20) == [
        (0, 0), (4, 0), (4, 0), (6, 0), (6, 0), (8, 0.75), (20, 0.75)
    ]  # fmt: skip
    moving_shares.write_page(loader, "mine", 20, tmp_path / "new" / "shares.html")
    page = (tmp_path / "new" / "shares.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == 3 and "phases.c: step 8, share 75%" in page


def test_a_phase_after_the_last_step_is_refused():
    refuse_late(("8=a",), 9, "--total-steps")
    for given in (("9=a",), ("4-9=a",)):
        with pytest.raises(ConfigError, match="the phase of a is whole from step 9 on, but --total-steps=9"):
            refuse_late(given, 9, "--total-steps")


def test_a_run_that_reads_no_mixture_has_no_phases():
    run = load(ROOT / "configs" / "llama2_tiny.py")
    data = dataclasses.replace(run.data, phases=("2=a",))
    dataclasses.replace(run, data=data)
    with pytest.raises(ConfigError, match=r"objective DpoConfig reads files of its own; leave data\.phases out"):
        dataclasses.replace(run, data=data, objective=DpoConfig(preferences=("p",)))
    with pytest.raises(ConfigError, match=r"whole from step 9000 on, but optim\.total_steps="):
        dataclasses.replace(run, data=dataclasses.replace(run.data, phases=("9000=a",)))
