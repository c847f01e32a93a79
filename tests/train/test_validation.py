"""Validation: its figures by definition and on every mesh, what it leaves as it is, best, early end, resume."""

import dataclasses
import json
import os
import signal
import sys

import jax
import numpy as np
import pytest
from held_rows import held_out
from tiny_run import SILENT, VOCAB, TinyLoader, tiny_config

from tigerjax.checkpoint.files import steps
from tigerjax.config import EvalConfig, MeshConfig, PipelineConfig
from tigerjax.data.rows import make_batch
from tigerjax.errors import ConfigError
from tigerjax.mesh import run_mesh
from tigerjax.model import families
from tigerjax.train.held_out import HeldOut, Validator, flat, lines
from tigerjax.train.loop import train
from tigerjax.train.metrics import Reporting, last_validation
from tigerjax.train.objective import Objective, token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state
from tigerjax.train.validation import RISES, Validation

SAME_SUMS = 1e-5  # float32, other summation orders
TIMES = ("tokens_per_s", "data_wait_share", "step_s", "time", "spent_s", "start_s", "goodput", "host_busy_s")
OF_THE_PROCESS = (*TIMES, "start_loss_nats")  # a resumed run has not seen the first steps


def config(*, keep_best=False, keep=3, every=2, total_steps=6, checkpoints=2, **given):
    base = tiny_config(total_steps=total_steps, every_steps=checkpoints, keep=keep)
    saving = dataclasses.replace(base.checkpoint, keep_best=keep_best)
    return dataclasses.replace(base, checkpoint=saving, eval=EvalConfig(every_steps=every, **given))


def run(folder, settings, loader=None, sets=None, **options):
    sets = held_out() if sets is None else sets
    held = HeldOut(sets)
    return train(settings, loader or TinyLoader(), run_dir=folder, held_out=held, reporting=SILENT, **options)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder):
    return [{k: v for k, v in r.items() if k not in OF_THE_PROCESS} for r in records(folder)]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of six steps with three validations: (folder, final state)."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, run(folder, config())


def by_definition(settings, weights, rows, groups, wanted):
    """{loss_nats, accuracy, tokens} of the rows whose group is `wanted`, each probability from all logits."""
    model = families.of(settings.model).language_model(settings.model, settings.compute)
    batch = make_batch(rows)
    logits_BTV = model.apply({"params": weights}, batch.tokens_BT, batch.positions_BT, batch.segment_ids_BT)
    logp_BTV = np.asarray(jax.nn.log_softmax(logits_BTV[..., : settings.model.vocab_size]), np.float64)
    of_row = [group for group, count in groups for _ in range(count)]
    nll = right = tokens = 0.0
    for b, group in enumerate(of_row):
        for t in range(rows.shape[2]) if wanted(group) else ():
            if batch.weights_BT[b, t]:
                nll, tokens = nll - logp_BTV[b, t, batch.targets_BT[b, t]], tokens + 1
                right += logp_BTV[b, t].argmax() == batch.targets_BT[b, t]
    return {"loss_nats": pytest.approx(nll / tokens, rel=SAME_SUMS), "accuracy": right / tokens, "tokens": tokens}


MESHES = [
    {},
    {"mesh": MeshConfig(fsdp=4, tensor=2)},
    {"mesh": MeshConfig(stage=2, sequence=2, tensor=2), "pipeline": PipelineConfig(microbatches=4, rounds=1)},
]


@pytest.mark.parametrize("how", MESHES, ids=["one device", "fsdp and tensor", "stages and shares of rows"])
def test_figures_are_those_of_the_definition_on_every_mesh(how):
    settings = dataclasses.replace(config(), **how)
    mesh, sets = run_mesh(settings), held_out()
    objective = token_objective(settings, mesh)
    weights = init_state(objective, make_optimizer(settings.optim), mesh, seed=3).weights
    found = Validator(settings, HeldOut(sets), objective, mesh).run(weights, lambda: False)
    assert list(found) == ["sft", "wiki"]
    assert found["sft"].keys() == {"loss_nats", "accuracy", "tokens", "by_task"}  # nothing says a language or source
    on_host = jax.device_get(weights)
    parts = {
        "wiki": lambda g: True,
        "wiki/lang/en": lambda g: g[0] == "en",
        "wiki/source/news": lambda g: g[1] == "news",
    }
    parts |= {"sft": lambda g: True, "sft/task/qa": lambda g: g[2] == "qa"}
    for name, wanted in parts.items():
        set_name, *inner = name.split("/")
        one = next(s for s in sets if s.name == set_name)
        got = found[set_name] if not inner else found[set_name][f"by_{inner[0]}"][inner[1]]
        expected = by_definition(settings, on_host, one.made, one.groups, wanted)
        assert {key: got[key] for key in expected} == expected, name


def test_validation_changes_no_weight_and_is_logged_with_its_step(whole, tmp_path):
    folder, state = whole
    plain = train(tiny_config(total_steps=6, every_steps=2), TinyLoader(), run_dir=tmp_path, reporting=SILENT)
    assert_same((state.weights, state.opt_state), (plain.weights, plain.opt_state))
    logged = records(folder)
    assert [r["step"] for r in logged] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in logged if "validation" in r] == [2, 4, 6]
    losses = [r["validation"]["wiki"]["loss_nats"] for r in logged if "validation" in r]
    assert losses[-1] < losses[0] and last_validation(folder) == logged[-1]["validation"]
    weights = [r["loss_weight"] for r in logged[2:4]]
    mean = sum(r["loss_nats"] * w for r, w in zip(logged[2:4], weights, strict=True)) / sum(weights)
    assert logged[3]["train_loss_nats"] == pytest.approx(mean)


def test_time_of_validation_is_no_time_of_steps(whole):
    spent = records(whole[0])[-1]["spent_s"]
    assert spent["validation"] > 0
    assert "validation" not in records(whole[0])[0]["spent_s"] or records(whole[0])[0]["spent_s"]["validation"] == 0


def test_a_step_between_logged_ones_is_logged_where_it_is_validated(tmp_path):
    run(tmp_path, dataclasses.replace(config(every=3), log_every_steps=4))
    assert [(r["step"], "validation" in r) for r in records(tmp_path)] == [(3, True), (4, False), (6, True)]


def test_a_crash_and_a_resume_give_the_lines_of_the_undisturbed_run(whole, tmp_path):
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(tmp_path, config(), TinyLoader(crash_at=5))
    assert records(tmp_path)[-1]["step"] >= 4
    state = run(tmp_path, config())
    assert_same(state.weights, whole[1].weights)
    assert timeless(tmp_path) == timeless(whole[0])


def test_a_signal_during_validation_saves_at_once_and_the_next_start_makes_up_for_it(whole, tmp_path):
    """SIGTERM while the held-out rows are read after step 4, with a whole batch still to come."""
    before, reads = signal.signal(signal.SIGTERM, signal.SIG_DFL), []

    def on_read():
        reads.append(1)
        if len(reads) == 3:  # two batches of each validation hold rows of the set
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        with pytest.raises(SystemExit):
            run(tmp_path, config(), sets=held_out(on_read))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert steps(tmp_path / "checkpoints")[0] == 4
    assert records(tmp_path)[-1]["step"] == 4 and "validation" not in records(tmp_path)[-1]
    run(tmp_path, config())
    assert timeless(tmp_path) == timeless(whole[0])


def test_a_run_that_is_done_is_validated_on_a_new_set_and_only_once(whole, tmp_path, capfd):
    settings = tiny_config(total_steps=6, every_steps=2)
    train(settings, TinyLoader(), run_dir=tmp_path, reporting=SILENT)
    run(tmp_path, dataclasses.replace(settings, eval=EvalConfig()))
    assert last_validation(tmp_path) == last_validation(whole[0])
    assert [r["step"] for r in records(tmp_path)] == [1, 2, 3, 4, 5, 6]
    before = (whole[0] / "metrics.jsonl").read_bytes()
    run(whole[0], config())
    assert (whole[0] / "metrics.jsonl").read_bytes() == before
    assert "all 6 steps are done, nothing to train" in capfd.readouterr().err


class Given:
    """A validator whose losses are given: `losses[n]` of the set wiki at validation n."""

    def __init__(self, *losses, **sources):
        self.losses, self.sources, self.n = losses, sources, -1
        self.names, self.hashes = ["wiki/loss_nats", "wiki/accuracy"], {"wiki": "its hash"}

    def run(self, weights, stop):
        self.n += 1
        by_source = {name: part(values[self.n]) for name, values in self.sources.items()}
        return {"wiki": part(self.losses[self.n]) | {"by_source": by_source}}


def part(loss):
    return {"loss_nats": loss, "accuracy": 0.5, "tokens": 8}


def validated(validator, train=None, keep_best=True, **given):
    """Validations at steps 1, 2, …, after training losses `train`; yields (the validation, what is logged)."""
    settings = EvalConfig(every_steps=1, **given)
    made = Validation(settings, validator, total_steps=99, keep_best=keep_best)
    for step in range(1, 1 + len(validator.losses)):
        made.trained(1.0 if train is None else train[step - 1], 10.0)
        logged = made.run(step, None, lambda: False)
        yield made, logged
        again = Validation(settings, validator, total_steps=99, keep_best=keep_best)
        again.restore(json.loads(json.dumps(made.state())))
        assert again.state() == made.state()
        made = again


def test_the_newest_of_equally_good_checkpoints_is_the_best_and_unsaved_steps_are_none():
    best = []
    for step, (made, _) in enumerate(validated(Given(3.0, 2.0, 2.0, 1.0, None, 2.5)), 1):
        if step != 4:
            made.saved(step)
        best.append(made.best_checkpoint)
    assert best == [1, 2, 3, 3, 3, 3]


def test_an_accuracy_is_better_when_it_is_higher():
    *_, (made, _) = validated(Given(2.0, 2.0), metric="wiki/accuracy", patience=1)
    assert made.metric == "wiki/accuracy" and made.ended  # equal is not better


def test_patience_counts_validations_without_a_better_figure():
    ended = [made.ended for made, _ in validated(Given(3.0, 3.1, 2.9, 2.95, 2.9, 2.8), patience=2)]
    assert ended == [False, False, False, False, True, False]


def test_a_source_that_rises_while_training_falls_is_named():
    assert RISES == 3
    losses = Given(2.0, 1.9, 1.8, 1.7, 1.6, books=[1.0, 1.1, 1.2, 1.3, 1.2], news=[1.0, 0.9, 1.2, 1.3, 1.4])
    logged = [logged["rising"] for _, logged in validated(losses, train=[5.0, 4.0, 4.5, 3.0, 2.0])]
    assert logged == [[], [], [], ["wiki/source/books"], ["wiki/source/news"]]
    rose = Given(2.0, 2.1, 2.2, 2.3)
    assert [logged["rising"] for _, logged in validated(rose, train=[5.0, 4.0, 3.0, 5.5])] == [[]] * 4


def test_another_metric_or_other_rows_forget_the_best_figure(capfd):
    ((made, _),) = validated(Given(3.0))
    other = Validation(EvalConfig(every_steps=1, metric="wiki/accuracy"), Given(3.0), total_steps=9, keep_best=False)
    other.restore(made.state())
    assert other.missing(1) and other.state()["best"] is None
    assert "the best figure counts anew" in capfd.readouterr().err


class OtherTargets(TinyLoader):
    def __next__(self):
        batch = super().__next__()
        return batch._replace(targets_BT=(batch.targets_BT + VOCAB // 2) % VOCAB)


def test_the_best_checkpoint_outlives_newer_ones_and_patience_ends_the_run(tmp_path, capfd):
    """The run learns other targets than those of the held-out rows, whose loss is soon at its best."""
    settings = config(keep_best=True, keep=1, total_steps=40, metric="wiki/loss_nats", patience=2)
    run(tmp_path, settings, OtherTargets())
    logged = [(r["step"], r["validation"]["wiki"]["loss_nats"]) for r in records(tmp_path) if "validation" in r]
    best, last = min(logged, key=lambda at: at[1])[0], logged[-1][0]
    assert last < 40 and last == best + 2 * 2, logged
    assert steps(tmp_path / "checkpoints") == [last, best]
    said = capfd.readouterr().err
    assert f"ended at step {last}/40: wiki/loss_nats has not become better at 2 validations" in said
    assert f"at step {best}, whose checkpoint is {tmp_path / 'checkpoints' / str(best)}" in said
    run(tmp_path, settings, OtherTargets())
    assert "nothing to train" in capfd.readouterr().err
    assert records(tmp_path)[-1]["step"] == last


@pytest.mark.parametrize(
    ("given", "sets", "message"),
    [
        ({}, [], "there is no held-out set; give eval.sets"),
        ({"patience": 2}, None, "eval.metric must say which figure counts"),
        (
            {"metric": "wiki/los_nats"},
            None,
            "'wiki/los_nats' is no figure of the held-out sets; did you mean wiki/loss",
        ),
    ],
)
def test_what_cannot_be_validated_is_refused_before_training(tmp_path, given, sets, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, config(**given), sets=sets)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_another_objective_has_no_validation(tmp_path):
    objective = Objective(init=lambda key: {}, loss=lambda weights, batch: None, kind="reward")
    with pytest.raises(ConfigError, match="training of a reward model has no loss on held-out texts"):
        run(tmp_path, config(), objective=objective)


def test_figures_are_flattened_and_written_as_lines(tmp_path):
    found = {"wiki": part(2.0) | {"by_source": {"a/b": part(None)}}}
    assert flat(found) == {
        "wiki/loss_nats": 2.0, "wiki/accuracy": 0.5, "wiki/source/a/b/loss_nats": None, "wiki/source/a/b/accuracy": 0.5,
    }  # fmt: skip
    assert [line.split("  ")[0] for line in lines(found, whole=True)] == ["wiki", "wiki/source/a/b"]
    assert len(lines(found, whole=False)) == 1 and "loss not finite" in lines(found, whole=True)[1]


class Quiz:
    """Questions of which so many are answered rightly as validations were made before."""

    def __init__(self):
        self.names, self.sha256, self.right = ["quiz/accuracy"], {"quiz": "its hash"}, -1

    def __call__(self, weights, mesh, stop):
        self.right += 1
        return {"quiz": {"accuracy": self.right / 5, "right": self.right, "n": 5}}


def test_answers_to_questions_are_figures_of_a_validation_too(tmp_path):
    settings = config(metric="quiz/accuracy", keep_best=True, keep=1)
    held = HeldOut(held_out(), Quiz())
    train(settings, TinyLoader(), run_dir=tmp_path, held_out=held, reporting=SILENT)
    assert [r["validation"]["quiz"]["right"] for r in records(tmp_path) if "validation" in r] == [0, 1, 2]
    assert {"sft", "wiki", "quiz"} == records(tmp_path)[-1]["validation"].keys()
    assert steps(tmp_path / "checkpoints") == [6]


class WandbStandIn:
    """What is used of the module `wandb`."""

    def __init__(self):
        self.logged, self.Settings = [], lambda **given: None

    def init(self, **given):
        return self

    def define_metric(self, name, step_metric):
        pass

    def log(self, values):
        self.logged.append(values)

    def finish(self, exit_code):
        pass


def test_validation_goes_to_every_writer(tmp_path, monkeypatch):
    said, wandb = [], WandbStandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    reporting = Reporting(progress=False, echo=said.append, wandb="project")
    train(config(every=None), TinyLoader(), run_dir=tmp_path, held_out=HeldOut(held_out()), reporting=reporting)
    assert sum(line.startswith(("wiki ", "sft ")) for line in said) == 2
    name, value = "wiki/lang/zh/loss_nats", last_validation(tmp_path)["wiki"]["by_lang"]["zh"]["loss_nats"]
    told = (tmp_path / "metrics.prom").read_text().splitlines()
    assert f'tigerjax_validation{{run="{tmp_path.name}",figure="{name}"}} {value:g}' in told
    assert [values.get(f"validation/{name}") for values in wandb.logged] == [None] * 5 + [value]
    (events,) = (tmp_path / "tensorboard").glob("events*")
    assert f"validation/{name}".encode() in events.read_bytes()
