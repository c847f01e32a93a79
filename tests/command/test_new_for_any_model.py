"""`tigerjax new` for models of every family with a tokenizer.json: with the vocabulary as it is, and extended."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import flax.linen as nn
import jax
import json_tokenizer
import numpy as np
import pytest

from tigerjax import config as config_lib
from tigerjax.checkpoint.model import load_model
from tigerjax.command import cli, project
from tigerjax.command.arguments import bind
from tigerjax.command.table import COMMANDS
from tigerjax.config import FLOAT32
from tigerjax.convert import hf
from tigerjax.model import families
from tigerjax.model.layers import init
from tigerjax.model.mistral.sizes import MistralConfig
from tigerjax.model.qwen2.sizes import Qwen2Config
from tigerjax.model.qwen3.sizes import Qwen3Config
from tigerjax.tokenizer.load import Tokenizer

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
SIZES = {
    "num_layers": 1, "model_dim": 16, "mlp_dim": 40, "num_heads": 4, "num_kv_heads": 2, "head_dim": 6,
    "rope_base": 777.0, "norm_eps": 3e-4,
}  # fmt: skip
BASES = {
    "mistral": (MistralConfig, {"sliding_window": 9}),
    "qwen2": (Qwen2Config, {"tied": True}),
    "qwen3": (Qwen3Config, {}),
}
SHORT = "--optim.total-steps 2 --optim.warmup-steps 1 --global-batch-size 2"


def base_model(folder: Path, name: str, tokenizer: str) -> Path:
    """A folder of Hugging Face as it is published, with its tokenizer.json and some rows of padding."""
    size = Tokenizer(json_tokenizer.write(folder, tokenizer)).size
    kind, own = BASES[name]
    config = kind(**SIZES, vocab_size=size + 11, padded_vocab_size=size + 11, **own)
    model = families.of(config).language_model(config, FLOAT32)
    shapes = nn.unbox(jax.eval_shape(lambda key: init(model, key), jax.random.key(0)))
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda a: rng.normal(0, 0.1, a.shape).astype(np.float32), shapes)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    hf.to_hf(weights, config, folder, hf.Export(tokenizer=None, seq_len=190))
    for file in ("manifest.json", "checksums.json", "README.md", "generation_config.json"):
        (folder / file).unlink()
    for file, content in kept.items():
        (folder / file).write_bytes(content)
    came = json.loads((folder / "config.json").read_text())
    del came["tigerjax"]
    tok = Tokenizer(folder)
    ids = {"bos_token_id": tok.bos, "eos_token_id": tok.eos, "pad_token_id": tok.pad, "use_cache": True}
    (folder / "config.json").write_text(json.dumps(came | ids))
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The files of a user, and the folder that he works in."""
    for name, lines in (("corpus_zh", 40), ("corpus_en", 20), ("sft", 30), ("preferences", 4)):
        own = (EMBEDDED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
        (tmp_path / f"{name}.jsonl").write_text("".join(own), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for module in ("pretrain", "sft", "mixture"):  # of a project: the next one has others
        sys.modules.pop(module, None)


def run(command: str) -> None:
    assert cli.main(shlex.split(command)) == 0, command


def steps() -> list[str]:
    """The commands that the project's README lists."""
    return [line[11:] for line in Path("README.md").read_text().splitlines() if line.startswith("$ tigerjax ")]


def test_a_project_for_fine_tuning_alone_goes_from_import_to_export(home, monkeypatch):
    base_model(home / "base", "qwen3", "qwen")
    run("new tuned --base base --sft sft.jsonl --seq-len 160 --device cpu --preferences preferences.jsonl")
    monkeypatch.chdir("tuned")
    assert steps() == ["data clean", "convert from-hf", "train", "reward train", "convert to-hf"]
    assert not Path("pretrain.py").exists() and "pretrain" not in Path("README.md").read_text()
    assert config_lib.load("reward.py").checkpoint.init_from == "runs/sft"
    run("data clean")
    run("convert from-hf")
    assert load_model("runs/base").config == config_lib.load("sft.py").model
    run(f"train {SHORT}")
    Path("asked.jsonl").write_text('{"prompt_id": "a", "messages": [{"role": "user", "content": "你好"}]}\n')
    run("sample runs/sft --prompts asked.jsonl --out answers --n 1 --dry-run")  # the run is the config
    run("convert to-hf")
    came, went = (json.loads(Path(f"{folder}/config.json").read_text()) for folder in ("../base", "runs/hf"))
    changed = {name for name in came if went[name] != came[name]}
    assert changed == {"vocab_size"}  # the padding is trimmed
    assert Path("runs/hf/tokenizer.json").read_bytes() == Path("../base/tokenizer.json").read_bytes()


def test_a_project_that_extends_a_tokenizer_json_goes_from_text_to_export(home, monkeypatch):
    base_model(home / "base", "qwen2", "smol")
    old = Tokenizer(home / "base")
    size = old.size + 30
    command = f"new grown --base base --zh corpus_zh.jsonl --en corpus_en.jsonl --sft sft.jsonl --vocab-size {size}"
    run(f"{command} --pad-to-multiple-of 64 --seq-len 48 --device cpu")
    monkeypatch.chdir("grown")
    for step in ("data clean", "data dedup exact", "data dedup near", "data dedup against-sft", "tokenizer train"):
        run(step)
    run("tokenizer extend")
    run("convert from-hf --verify")
    model, new = load_model("runs/base"), Tokenizer("tokenizer")
    assert model.config == config_lib.load("pretrain.py").model and model.config.vocab_size == new.size == size
    rows = {tuple(row) for row in np.asarray(model.weights["embed"][: old.size])}
    assert len(rows) == old.size and model.config.padded_vocab_size % 64 == 0
    run(f"train pretrain.py {SHORT} --dry-run")
    run("convert to-hf runs/base runs/hf --tokenizer tokenizer --verify")
    went = json.loads(Path("runs/hf/config.json").read_text())
    assert (went["eos_token_id"], went["vocab_size"]) == (old.eos, size)


@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_documents_alone_do_not_extend_a_tokenizer_json(home, monkeypatch, name):
    base_model(home / "base", name, "llama3")
    run("new kept --base base --zh corpus_zh.jsonl --sft sft.jsonl --seq-len 32 --device cpu")
    monkeypatch.chdir("kept")
    assert [s for s in steps() if s.startswith(("tokenizer", "train"))] == ["train pretrain.py", "train sft.py"]
    tables = project.read(COMMANDS)
    for table in tables:
        words = project.complete(tables, table.command, COMMANDS[table.command], table.positional)
        bind(COMMANDS[table.command], words, "tigerjax")
    first, last = config_lib.load("pretrain.py"), config_lib.load("sft.py")
    assert type(first.model) is BASES[name][0] and first.model == last.model
    assert first.data.tokenizer == "../base" and first.model.vocab_size == Tokenizer("../base").size
    mixture = Path("mixture.py").read_text()
    assert "zh_share=1.0" in mixture and "en={}" in mixture
    compile(mixture, "mixture.py", "exec")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ("--vocab-size 100", 2, "--vocab-size 100 is below the"),
        ("--vocab-size 5000", 2, "give Chinese text to --zh"),
        ("--zh corpus_zh.jsonl --vocab-size 50000", 2, "; give more text, or --vocab-size "),
        ("--zh corpus_en.jsonl --vocab-size 1000", 3, "no Chinese text to train on"),
    ],
)
def test_a_vocabulary_that_cannot_be_had_is_refused_before_anything_is_written(home, capsys, options, code, message):
    base_model(home / "base", "qwen3", "qwen")
    capsys.readouterr()
    assert cli.main(shlex.split(f"new mine --base base --sft sft.jsonl {options}")) == code
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 2 and not Path("mine").exists()  # the other line is of the padding


def test_a_base_without_a_chat_template_or_a_tokenizer_is_refused(home, capsys):
    base_model(home / "base", "qwen2", "llama3")
    (home / "base/chat_template.jinja").unlink()
    assert cli.main(shlex.split("new mine --base base --sft sft.jsonl")) == 2
    assert "has no chat template, which fine-tuning needs; put the chat_template.jinja of" in capsys.readouterr().err
    (home / "base/tokenizer.json").unlink()
    assert cli.main(shlex.split("new mine --base base --sft sft.jsonl")) == 2
    assert "has no tokenizer that is read; put the model's tokenizer.json or" in capsys.readouterr().err
