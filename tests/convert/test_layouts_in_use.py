"""A folder in the layout of a released TigerBot is trained, evaluated on held-out examples, grown and sampled.

It has more rows than its tokenizer has entries (60,928 for 60,515 there), and its markers in added_tokens.json.
"""

import json

import pytest
from hand_tokenizer import INS, PAD, RES, WORDS, write_added
from test_layouts import CONFIG, ROWS, SIZE, model_folder, run

from tigerjax.checkpoint.model import load_model
from tigerjax.tokenizer.load import Tokenizer

MIXTURE = """from tigerjax.data.mixture import Source, sft

sft("layout", tokenizer={tokenizer!r}, examples=Source("sft.jsonl"))
"""
RUN = """import dataclasses

from tigerjax.config import (
    CheckpointConfig, ComputeConfig, DataConfig, MeshConfig, ModelConfig, OptimConfig, RopeConfig, RunConfig,
)


def config():
    return RunConfig(
        name="layout",
        model=ModelConfig(**{model}),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=64),
        mesh=MeshConfig(),
        optim=OptimConfig(
            peak_lr=1e-3, final_lr_fraction=0.1, warmup_steps=1, total_steps=2, beta1=0.9, beta2=0.95, eps=1e-8,
            weight_decay=0.1, clip_norm=1.0, gradient_accumulation_steps=1,
        ),
        data=DataConfig(
            mixture="layout", modules=("{module}",), tokenizer={tokenizer!r}, cache_dir="cache", seq_len=64
        ),
        checkpoint=CheckpointConfig(every_steps=2, keep=1, init_from={start!r}),
        global_batch_size=2,
        seed=0,
        log_every_steps=1,
    )
"""


def config_file(folder, name, tokenizer, start, vocab_size, padded):
    sizes = {field: getattr(CONFIG, field) for field in CONFIG.__dataclass_fields__}
    sizes |= {"vocab_size": vocab_size, "padded_vocab_size": padded}
    (folder / f"{name}_mixture.py").write_text(MIXTURE.format(tokenizer=str(tokenizer)))
    text = RUN.format(model=sizes, module=f"{name}_mixture", tokenizer=str(tokenizer), start=str(start))
    (folder / f"{name}.py").write_text(text)
    return f"{name}.py"


@pytest.mark.parametrize("grown", [False, True])
def test_such_a_folder_is_trained_evaluated_and_sampled(tmp_path, monkeypatch, grown):
    monkeypatch.chdir(tmp_path)
    folder, _ = model_folder(tmp_path / "tigerbot")
    write_added(folder, INS, RES, PAD)
    tokenizer, size, padded = folder, SIZE, ROWS
    name = "grown" if grown else "as_it_came"
    if grown:
        tokenizer = write_added(tmp_path / "new", INS, RES, PAD, words=[*WORDS, "abc", "dcba"])
        run("convert", "from-hf", folder, "start", "--tokenizer", tokenizer, "--pad-to-multiple-of", 96)
        size, padded = SIZE + 2, 288
    else:
        run("convert", "from-hf", folder, "start")
    turns = [{"role": "user", "content": "ab?"}, {"role": "assistant", "content": "abcd dcba"}]
    lines = [json.dumps({"id": str(n), "messages": turns, "task": "say", "lang": "en"}) for n in range(8)]
    (tmp_path / "sft.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"prompt_id": "p", "messages": turns[:1]}) + "\n")
    config = config_file(tmp_path, name, tokenizer, tmp_path / "start", size, padded)
    run("train", config, "--out", "run", "--eval.sets", "sft.jsonl", "--json", "train.json")
    (held_out,) = json.loads((tmp_path / "train.json").read_text())["validation"].values()
    assert held_out["loss_nats"] > 0
    trained = load_model(tmp_path / "run")
    assert (trained.config.vocab_size, trained.config.padded_vocab_size) == (size, padded)
    run(
        "sample",
        config,
        "--model",
        "run",
        "--prompts",
        "prompts.jsonl",
        "--out",
        "answers",
        "--n",
        2,
        "--max-new-tokens",
        4,
    )
    (answer,) = map(json.loads, (tmp_path / "answers" / "candidates.jsonl").read_text().splitlines())
    assert len(answer["candidates"]) == 2 and Tokenizer(tokenizer).size == size


def test_sampling_past_the_positions_of_an_import_is_said_once(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder, _ = model_folder(tmp_path / "tigerbot", max_position_embeddings=60)
    write_added(folder, INS, RES, PAD)
    run("convert", "from-hf", folder, "start")
    config = config_file(tmp_path, "past", folder, tmp_path / "start", SIZE, ROWS)
    monkeypatch.setattr("tigerjax.sample.folder.sample_file", lambda *_, **__: {})
    monkeypatch.setattr("tigerjax.command.models._show_answers", lambda *_: None)
    for length, times in ((60, 0), (64, 1)):
        command = ["sample", config, "--model", "start", "--prompts", "none.jsonl", "--out", "answers"]
        run(*command, "--data.seq-len", length)
        said = capsys.readouterr().err
        assert said.count("warning: rows of 64 tokens are past the 60 positions of start") == times, said
