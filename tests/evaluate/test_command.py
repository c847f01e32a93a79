"""`tigerjax evaluate` from a checkpoint on disk to results, page and exit code."""

import dataclasses
import json
from pathlib import Path

import pytest
from tiny import weights
from tiny_model import CONFIG

from tigerjax.checkpoint.model import save_model
from tigerjax.command.cli import main
from tigerjax.evaluate import suite
from tigerjax.evaluate.loglikelihood import LogLikelihoods
from tigerjax.evaluate.together import Together
from tigerjax.files import paths
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.train import train_model

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """tok/, run/ and data/boolq of six questions."""
    folder = tmp_path_factory.mktemp("evaluated")
    train_model([ROOT / "data_mixtures/embedded/corpus_en.jsonl"], 600, folder / "tok")
    tokenizer = Tokenizer(folder / "tok")
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.size, padded_vocab_size=tokenizer.size + 8)
    extra = {"hugging_face": {"max_position_embeddings": 90}}
    save_model(folder / "run", weights(config), config, tokenizer_sha256=tokenizer.sha256, step=7, extra=extra)
    (folder / "data/boolq").mkdir(parents=True)
    rows = [{"passage": f"It is {n}.", "question": f"is it {n}", "answer": n % 2 == 0} for n in range(6)]
    (folder / "data/boolq/dev.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def words(root: object, out: object) -> list[str]:
    """The command without its tasks: what it reads is below `root`, what it writes below `out`."""
    command = ["evaluate", str(ROOT / "configs/quickstart_base.py"), "--model", f"{root}/run"]
    command += ["--data-dir", f"{root}/data", "--out", f"{out}/out", "--json", f"{out}/figures.json"]
    return [*command, "--data.tokenizer", f"{root}/tok", "--data.seq-len", "96", "--batch-size", "4"]


def test_a_run_is_evaluated_and_missing_data_exits_3(made, tmp_path, capsys, monkeypatch):
    out, command = tmp_path / "out", words(made, tmp_path)
    assert main([*command, "--tasks", "boolq", "piqa"]) == 3
    said = capsys.readouterr()
    assert said.err.count("warning: rows of 96 tokens are past the 90 positions of ") == 1
    assert "incomplete: piqa missing" in said.err and "piqa/dev.jsonl is not there" in said.out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert not figures["complete"] and figures["mean_en"] is None and figures["tasks"]["boolq"]["n"] == 6
    page = (out / "report.html").read_text()
    assert "boolq" in page and "missing" in page and "TigerBot-70B-base" in page
    kept = json.loads((out / "results.json").read_text())
    assert kept["facts"]["step"] == 7 and kept["tasks"] == figures["tasks"]

    nothing_is_computed(monkeypatch)
    assert main([*command, "--tasks", "boolq"]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["tasks"] == figures["tasks"]
    assert main([*command, "--tasks", "boolqq"]) == 2


def nothing_is_computed(monkeypatch):
    """A model that is asked for anything fails."""
    for where, name in ((LogLikelihoods, "_batch"), (Together, "_read"), (Together, "_keep")):
        monkeypatch.setattr(where, name, lambda *_: (_ for _ in ()).throw(AssertionError("computed again")))


def test_in_a_bucket_the_figures_are_those_of_a_disk_and_nothing_is_asked_twice(
    made, cloud, tmp_path, capsys, monkeypatch
):
    store = "gs://bucket/evaluated"
    for name in ("tok", "run", "data"):
        paths.upload(made / name, paths.of(f"{store}/{name}"))
    assert main([*words(made, tmp_path), "--tasks", "boolq"]) == 0
    command = words(store, store)

    def score(self, sequences, before=LogLikelihoods.score):
        for number, one in enumerate(before(self, sequences)):
            if number == 5:
                raise KeyboardInterrupt
            yield one

    with monkeypatch.context() as patch:
        patch.setattr(LogLikelihoods, "score", score)
        assert main([*command, "--tasks", "boolq"]) == 130
    kept = paths.whole_lines(paths.of(f"{store}/out/{suite.CACHE}"))
    assert len(kept) == 5
    cloud.refuse = lambda method, name: 403 if method == "POST" and name.endswith("boolq.jsonl") else None
    capsys.readouterr()
    assert main([*command, "--tasks", "boolq"]) == 3
    assert "the bucket refused: " in capsys.readouterr().err
    assert f"bucket/evaluated/out/{suite.RESULTS}" not in cloud.objects
    cloud.refuse = lambda method, name: None
    nothing_is_computed(monkeypatch)
    assert main([*command, "--tasks", "boolq"]) == 0
    assert paths.whole_lines(paths.of(f"{store}/out/{suite.CACHE}"))[:5] == kept
    for name in ("figures.json", f"out/{suite.RESULTS}", "out/items/boolq.jsonl", "out/report.html"):
        assert cloud.objects[f"bucket/evaluated/{name}"].data == (tmp_path / name).read_bytes(), name

    compared = ["evaluate", "compare", str(tmp_path / "out"), f"{store}/out"]
    assert main([*compared, "--out", f"{store}/both.html", "--json", f"{store}/both.json"]) == 0
    found = json.loads(cloud.objects["bucket/evaluated/both.json"].data)
    (difference,) = found["tasks"]["boolq"]["differences"]
    assert difference["difference"] == 0 and found["models"][1] == "evaluated/out"
    assert b"evaluated/out" in cloud.objects["bucket/evaluated/both.html"].data
    capsys.readouterr()
    assert main([*command, "--tasks", "boolq", "--harness", "--include-path", f"{store}/tasks"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("tigerjax: include-path: gs://bucket/evaluated/tasks lies in") and said.count("\n") == 1


def test_long_rows_are_measured_and_drawn_and_options_that_do_not_belong_are_refused(made, tmp_path, capsys):
    text = ROOT / "data_mixtures/embedded/corpus_en.jsonl"
    command = [word for word in words(made, tmp_path) if word not in ("--data-dir", f"{made}/data")]
    long = [*command, "--length", "--text", str(text), "--times", "1", "2", "--length-rows", "2", "--needles", "1"]
    assert main([*long, "--rope-kinds", "default", "yarn"]) == 0
    shown = capsys.readouterr().out
    assert "English: loss of the last 48 tokens, nats" in shown and "yarn" in shown
    figures = json.loads((tmp_path / "figures.json").read_text())
    kept = json.loads((tmp_path / "out/length/results.json").read_text())
    assert kept == figures | {"facts": kept["facts"]} and kept["facts"]["step"] == 7
    assert list(figures["ropes"]) == ["default", "yarn"] and figures["factor"] == 2
    assert "<polyline" in (tmp_path / "out/length/report.html").read_text()
    for more, message in (
        (["--tasks", "boolq"], "give either --tasks"),
        (["--chat", "--limit", "3"], "--length does not read --limit, --chat"),
    ):
        assert main([*long, *more]) in (2, 3)
        assert message in capsys.readouterr().err
    for words_of, others, message in (
        (["--text", str(text)], ["--text"], "give their files with --text"),
        (["--times", "1", "2"], ["--times", "4", "4000"], "give more text of this language, or smaller --times"),
    ):
        at = long.index(words_of[0])
        assert main([*long[:at], *others, *long[at + len(words_of) :]]) in (2, 3)
        assert message in capsys.readouterr().err
    assert main(command) == 2
    assert "give either --tasks" in capsys.readouterr().err
