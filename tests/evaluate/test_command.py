"""`tigerjax evaluate` from a checkpoint on disk to results, page and exit code."""

import dataclasses
import json
from pathlib import Path

from tiny import weights
from tiny_model import CONFIG

from tigerjax.cli import main
from tigerjax.evaluate.model import Scorer
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.train import train_model
from tigerjax.train.checkpoint import save_model

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_is_evaluated_and_missing_data_exits_3(tmp_path, capsys, monkeypatch):
    train_model([ROOT / "data_mixtures/embedded/corpus_en.jsonl"], 600, tmp_path / "tok")
    tokenizer = Tokenizer(tmp_path / "tok")
    config = dataclasses.replace(CONFIG, vocab_size=tokenizer.size, padded_vocab_size=tokenizer.size + 8)
    save_model(tmp_path / "run", weights(config), config, tokenizer_sha256=tokenizer.sha256, step=7)
    (tmp_path / "data/boolq").mkdir(parents=True)
    rows = [{"passage": f"It is {n}.", "question": f"is it {n}", "answer": n % 2 == 0} for n in range(6)]
    (tmp_path / "data/boolq/dev.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "out"
    command = ["evaluate", str(ROOT / "configs/quickstart_base.py"), "--model", str(tmp_path / "run")]
    command += ["--data-dir", str(tmp_path / "data"), "--out", str(out), "--json", str(tmp_path / "figures.json")]
    command += ["--data.tokenizer", str(tmp_path / "tok"), "--data.seq-len", "96", "--rows", "4"]

    assert main([*command, "--tasks", "boolq", "piqa"]) == 3
    said = capsys.readouterr()
    assert "incomplete: piqa missing" in said.err and "piqa/dev.jsonl is not there" in said.out
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert not figures["complete"] and figures["mean_en"] is None and figures["tasks"]["boolq"]["n"] == 6
    page = (out / "report.html").read_text()
    assert "boolq" in page and "missing" in page and "TigerBot-70B-base" in page
    kept = json.loads((out / "results.json").read_text())
    assert kept["facts"]["step"] == 7 and kept["tasks"] == figures["tasks"]

    monkeypatch.setattr(Scorer, "_batch", lambda *_: (_ for _ in ()).throw(AssertionError("computed again")))
    assert main([*command, "--tasks", "boolq"]) == 0
    assert json.loads((tmp_path / "figures.json").read_text())["tasks"] == figures["tasks"]
    assert main([*command, "--tasks", "boolqq"]) == 2
