"""Questions put to a model while it trains: the sampler's own answers, on every mesh, counted by language and task."""

import dataclasses

import jax
import pytest
from tiny_model import COMPUTE, CONFIG, ByteTokenizer

from tigerjax.checkpoint.loaded import Loaded
from tigerjax.config import (
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    MeshConfig,
    OptimConfig,
    PipelineConfig,
    RunConfig,
)
from tigerjax.errors import ConfigError, DataError
from tigerjax.evaluate import asked, questions
from tigerjax.files import jsonl
from tigerjax.mesh import run_mesh
from tigerjax.sample.engine import SamplingConfig, generate
from tigerjax.sample.in_training import in_training
from tigerjax.train.held_out import flat, lines
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state

TOKENS = 6


@pytest.fixture(autouse=True)
def bytes_as_tokens(monkeypatch):
    monkeypatch.setattr(asked, "Tokenizer", lambda folder: ByteTokenizer())


def config(path, mesh=None, **given) -> RunConfig:
    optim = OptimConfig(
        peak_lr=1e-2, final_lr_fraction=0.1, warmup_steps=2, total_steps=4, beta1=0.9, beta2=0.95, eps=1e-8,
        weight_decay=0.1, clip_norm=1.0,
    )  # fmt: skip
    return RunConfig(
        name="asked",
        model=CONFIG,
        compute=COMPUTE,
        mesh=mesh or MeshConfig(),
        optim=optim,
        data=DataConfig(mixture="m", modules=(), tokenizer="t", cache_dir="c", seq_len=64),
        checkpoint=CheckpointConfig(every_steps=4, keep=1),
        global_batch_size=8,
        seed=5,
        log_every_steps=1,
        eval=EvalConfig(questions=(f"quiz={path}",), max_new_tokens=TOKENS, **given),
    )


def weights_of(run: RunConfig):
    mesh = run_mesh(run)
    return init_state(token_objective(run, mesh), make_optimizer(run.optim), mesh, seed=run.seed).weights, mesh


def quiz(folder, first_answer="nothing"):
    """A file of three questions, of which the first has the given answer and the last does not fit a row."""
    asks = [("en", "say", "a?"), ("zh", "say", "b?"), ("en", "write", "c" * 80)]
    path = folder / "quiz.jsonl"
    jsonl.write_jsonl(
        path,
        [
            {"id": str(n), "lang": lang, "task": task, "prompt": prompt, "answers": [(first_answer, "none", "none")[n]]}
            for n, (lang, task, prompt) in enumerate(asks)
        ],
    )
    return path


@pytest.fixture(scope="module")
def answered():
    """What the sampler answers to the first question, with the weights of these tests."""
    run = config("none")
    weights, _ = weights_of(run)
    model = Loaded(config=CONFIG, weights=weights, tokenizer=ByteTokenizer(), compute=COMPUTE, sha256="m")
    sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=TOKENS, context=64, seed=5)
    prompt = {"prompt_id": "0", "messages": [{"role": "user", "content": "a?"}]}
    (record,) = generate(model, [prompt], sampling)
    return record["candidates"][0]["text"]


@pytest.mark.parametrize("mesh", [MeshConfig(), MeshConfig(fsdp=2, sequence=2, tensor=2)], ids=["one", "eight"])
def test_answers_are_the_samplers_and_one_that_is_longer_than_a_row_is_not_right(tmp_path, answered, mesh):
    assert questions.key(answered)
    run = config(quiz(tmp_path, answered), mesh)
    ask = asked.asked(run)
    found = ask(*weights_of(run), lambda: False)
    assert found["quiz"]["accuracy"] == pytest.approx(1 / 3)
    assert found["quiz"]["by_lang"]["en"] == {"accuracy": 0.5, "right": 1, "n": 2}
    assert list(flat(found)) == ask.names and ask.names[0] == "quiz/accuracy"
    assert lines(found, whole=False) == [f"{'quiz':28} right 33.3%  questions 3"]


def test_a_signal_ends_the_asking(tmp_path):
    run, calls = config(quiz(tmp_path)), []

    def stop():
        calls.append(1)
        return len(calls) == 2

    assert asked.asked(run)(*weights_of(run), stop) is None and len(calls) == 2


def test_a_question_that_is_longer_than_a_row_is_counted_in_a_note(tmp_path, capsys):
    asked.asked(config(quiz(tmp_path)))
    assert "note: eval.questions quiz: 1 of 3 questions leave no room for an answer in data.seq_len=64" in (
        capsys.readouterr().err
    )


def test_other_questions_have_another_hash(tmp_path):
    before = asked.asked(config(quiz(tmp_path))).sha256
    assert asked.asked(config(quiz(tmp_path))).sha256 == before
    assert asked.asked(config(quiz(tmp_path, "other"))).sha256 != before


def test_what_cannot_be_asked_is_one_line(tmp_path):
    assert asked.asked(dataclasses.replace(config("none"), eval=EvalConfig())) is None
    with pytest.raises(DataError, match="questions file does not exist"):
        asked.asked(config(tmp_path / "none.jsonl"))
    rounds = dataclasses.replace(
        config(quiz(tmp_path)),
        model=dataclasses.replace(CONFIG, num_layers=4),
        mesh=MeshConfig(stage=2),
        pipeline=PipelineConfig(microbatches=2, rounds=2),
    )
    with pytest.raises(ConfigError, match=r"pipeline\.rounds=2: the layers lie in another order"):
        asked.asked(rounds)


def test_the_weights_are_not_copied_for_the_sampler(tmp_path):
    run = config(quiz(tmp_path), MeshConfig(fsdp=2, sequence=2, tensor=2))
    weights, mesh = weights_of(run)
    model = in_training(run, weights, mesh, tokenizer=None)
    for ours, theirs in zip(jax.tree.leaves(weights), jax.tree.leaves(model.weights), strict=True):
        pointers = [[s.data.unsafe_buffer_pointer() for s in w.addressable_shards] for w in (ours, theirs)]
        assert pointers[0] == pointers[1]
