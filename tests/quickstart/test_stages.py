"""The quick start's stages on the embedded text with a few steps of training; the whole of it is the slow test."""

import dataclasses
import importlib.util
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from tigerjax.command.cli import main
from tigerjax.config import RunConfig
from tigerjax.errors import ConfigError
from tigerjax.files import manifest
from tigerjax.quickstart import answers, parity, state, text, training

STEPS = 2
PARITY = 1e-4
"""Largest difference of float32 logits between two implementations that sum in other orders."""


def short(config: RunConfig) -> RunConfig:
    optim = dataclasses.replace(config.optim, total_steps=STEPS, warmup_steps=1)
    model = dataclasses.replace(config.model, num_layers=1, model_dim=32, mlp_dim=48, head_dim=8)
    return dataclasses.replace(config, optim=optim, model=model, global_batch_size=8, log_every_steps=1)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> state.Quickstart:
    from data_mixtures import quickstart as mixtures

    out = tmp_path_factory.mktemp("quickstart")
    mixtures.register(out)
    made = state.Quickstart(out, 0, short, Console(quiet=True), {"curves": {}, "accuracy": {}})
    made.report["data"] = text.prepare_text(out)
    made.report["tokenizer"] = text.make_tokenizers(made)
    training.train(made, "base")
    training.train(made, "holistic")
    yield made
    mixtures.register(mixtures.WORK)


def test_counts_of_the_text_stages_balance(quick: state.Quickstart):
    data = quick.report["data"]
    for counts in (data["clean"], data["dedup"]["exact"], data["dedup"]["near"], data["against_sft"], data["sft"]):
        assert counts["in"] == counts["out"] + sum(counts["dropped"].values()), counts
    assert data["dedup"]["exact"]["dropped"]["exact"] == 20, "the 20 planted exact copies go"


def test_the_extended_vocabulary_has_its_exact_size_and_twice_the_efficiency(quick: state.Quickstart):
    figures, model = quick.report["tokenizer"], quick.config("holistic").model
    assert figures["vocab_after"] == model.vocab_size
    before, after = figures["chars_per_token_before"], figures["chars_per_token_after"]
    assert after["zh"] >= 2 * before["zh"]
    assert after["en"] == before["en"], "English is untouched"


def test_the_holistic_shares_are_those_wanted_to_a_row(quick: state.Quickstart):
    config, shares = quick.config("holistic"), quick.report["shares"]
    rows = config.global_batch_size * STEPS
    assert shares["wanted"].keys() == shares["realised"].keys()
    for name, wanted in shares["wanted"].items():
        assert abs(shares["realised"][name] - wanted) <= 1 / rows, name


def test_a_finished_stage_is_kept_and_a_changed_one_is_done_again(quick: state.Quickstart):
    folder = quick.out / "holistic"
    before = (folder / manifest.FILE).stat().st_mtime_ns
    training.train(quick, "holistic")
    assert (folder / manifest.FILE).stat().st_mtime_ns == before
    other = quick._replace(seed=1)
    training.train(other, "holistic")
    assert (folder / manifest.FILE).stat().st_mtime_ns > before


def test_every_held_out_question_is_answered_once(quick: state.Quickstart):
    figures = answers.accuracy(quick, quick.out / "holistic", chat=False)
    assert figures["n"] == len(state.TEST.read_text(encoding="utf-8").splitlines())
    assert len(quick.report["curves"]["holistic"]) == STEPS


@pytest.mark.parametrize("held", ["manifest.json", "notes.txt"])
def test_a_folder_of_something_else_is_refused_before_any_work(tmp_path: Path, held: str, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / held).write_text('{"stage": "dedup"}')
    assert main(["quickstart", "--out", str(out)]) == 2
    printed = capsys.readouterr().err
    what = "the result of stage 'dedup'" if held == manifest.FILE else "files that no stage wrote"
    assert printed.startswith(f"tigerjax: {out} holds {what}, and stage 'quickstart' would replace it")
    assert printed.count("\n") == 1 and [path.name for path in out.iterdir()] == [held]


def test_a_fresh_an_empty_and_its_own_folder_are_taken(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for name in ("fresh/below", "empty"):
        state.claim(tmp_path / name)
        assert json.loads((tmp_path / name / state.SECONDS).read_text()) == {}
    (tmp_path / "empty" / "clean.partial").mkdir()  # what a kill has left
    (tmp_path / "empty" / state.SECONDS).write_text('{"tokenizer": 3.0}')
    state.claim(tmp_path / "empty")
    assert json.loads((tmp_path / "empty" / state.SECONDS).read_text()) == {"tokenizer": 3.0}
    (tmp_path / "empty" / manifest.FILE).write_text('{"stage": "dedup"}')  # and then a stage was sent there
    with pytest.raises(ConfigError, match="the result of stage 'dedup'"):
        state.claim(tmp_path / "empty")


def export(quick: state.Quickstart, monkeypatch, missing: str | None) -> dict:
    """Figures of the export of OUT/holistic where the package `missing` looks as if it were not installed."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else find(name))
    return parity.hugging_face(quick, quick.out / "holistic")


@pytest.mark.parametrize("missing", ["torch", "transformers"])
def test_without_torch_or_transformers_the_export_is_compared_with_the_numpy_llama(quick, monkeypatch, missing):
    printed = io.StringIO()
    figures = export(quick._replace(console=Console(file=printed, width=500)), monkeypatch, missing)
    assert "is compared with a Llama in numpy only" in printed.getvalue()
    assert figures["hf_compared_with"] == "numpy" and "hf_token_ids_equal" not in figures
    assert 0 < figures["hf_max_abs_logit_diff"] <= PARITY
    assert figures["hf_greedy_equal"] == {"prompts": parity.PROMPTS, "equal": parity.PROMPTS}
    exported = json.loads((quick.out / "hf" / "config.json").read_text())
    assert exported["max_position_embeddings"] == 64, "else every loader takes its own default"


def test_the_export_is_compared_again_once_transformers_is_there(quick: state.Quickstart, monkeypatch):
    for name in ("torch", "transformers"):
        pytest.importorskip(name)
    assert export(quick, monkeypatch, "torch")["hf_compared_with"] == "numpy"
    monkeypatch.undo()
    figures = parity.hugging_face(quick, quick.out / "holistic")
    assert figures["hf_compared_with"] == "transformers"
    assert figures["hf_max_abs_logit_diff"] <= PARITY
    assert figures["hf_token_ids_equal"]["equal"] == figures["hf_token_ids_equal"]["texts"] == parity.PROMPTS


@pytest.mark.slow
def test_the_quick_start_ends_in_a_report_with_a_real_gain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert main("quickstart --out runs/quickstart --seed 0".split()) == 0  # the example of its help
    out = tmp_path / "runs" / "quickstart"
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    accuracy = {name: figures["overall"] for name, figures in report["accuracy"].items()}
    assert accuracy["rejection_sampled"] > accuracy["sft"], accuracy
    assert accuracy["rejection_sampled"] > accuracy["control"], accuracy
    assert report["hf_max_abs_logit_diff"] <= PARITY
    assert report["hf_greedy_equal"]["equal"] == report["hf_greedy_equal"]["prompts"]
    assert (out / "report.html").is_file()
