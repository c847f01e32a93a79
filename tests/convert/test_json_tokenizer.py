"""A model with a byte-level BPE of Hugging Face from its rows to an exported folder, and back."""

import json
import os
import shlex

import json_tokenizer
import numpy as np
import pytest

from tigerjax.checkpoint.model import load_model
from tigerjax.command import cli
from tigerjax.data.loader import Loader
from tigerjax.tokenizer.chat import encode_chat
from tigerjax.tokenizer.load import Tokenizer

FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
MIXTURE = """
from tigerjax.data.mixture import Source, pretraining, sft
pretraining("texts", tokenizer="tok", sources={"zh": Source("zh.jsonl"), "en": Source("en.jsonl")})
sft("chats", tokenizer="tok", examples=Source("sft.jsonl"))
"""
CONFIG = """
from tigerjax.config import *

def config():
    return RunConfig(
        name="tiny",
        model=ModelConfig(num_layers=1, model_dim=16, mlp_dim=24, num_heads=2, num_kv_heads=1, head_dim=8,
                          vocab_size=SIZE, padded_vocab_size=SIZE + 7, rope_base=777.0, norm_eps=1e-5),
        compute=ComputeConfig(attention="reference", remat="none", dtype="float32", loss_chunk_tokens=128),
        mesh=MeshConfig(),
        optim=OptimConfig(peak_lr=3e-3, final_lr_fraction=0.1, warmup_steps=1, total_steps=2, beta1=0.9, beta2=0.95,
                          eps=1e-8, weight_decay=0.1, clip_norm=1.0),
        data=DataConfig(mixture="chats", modules=("json_mixture",), tokenizer="tok", cache_dir="cache", seq_len=128),
        checkpoint=CheckpointConfig(every_steps=2, keep=1), global_batch_size=2, seed=0, log_every_steps=1)
"""
TALK = [{"role": "user", "content": "Say 你好 <|eot_id|>"}, {"role": "assistant", "content": "你好 😀"}]


def run(command):
    assert cli.main(shlex.split(command)) == 0, command


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """tok/ as Llama 3 has it, a run of two steps on dialogues, its answers, its scores, and its export hf/."""
    home = tmp_path_factory.mktemp("json_tokenizer")
    tok = Tokenizer(json_tokenizer.write(home / "tok", "llama3"))
    texts = json_tokenizer.lines()
    for name, own in (("en", texts[:8]), ("zh", texts[60:68])):
        (home / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in own))
    examples = [
        {"id": f"e{n}", "messages": [{**TALK[0], "content": f"{n}: Say 你好 <|eot_id|>"}, TALK[1]]} for n in range(24)
    ]
    (home / "sft.jsonl").write_text("".join(json.dumps(one) + "\n" for one in examples))
    (home / "prompts.jsonl").write_text(json.dumps({"prompt_id": "a", "messages": TALK[:1]}) + "\n")
    (home / "data/boolq").mkdir(parents=True)
    asked = [{"passage": f"It is {n}.", "question": f"is it {n}", "answer": n % 2 == 0} for n in range(3)]
    (home / "data/boolq/dev.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    (home / "json_mixture.py").write_text(MIXTURE)
    (home / "tiny.py").write_text(CONFIG.replace("SIZE", str(tok.size)))
    before = os.getcwd()
    os.chdir(home)
    try:
        run("data cache tiny.py --data.mixture texts")
        run("train tiny.py --out run")
        run("sample tiny.py --model run --prompts prompts.jsonl --out answers --n 2 --max-new-tokens 6 --batch-size 2")
        run("evaluate tiny.py --model run --tasks boolq --data-dir data --out scores --batch-size 2")
        run("convert to-hf run hf --tokenizer tok --verify")
        run("convert from-hf hf again --verify")
        yield home
    finally:
        os.chdir(before)


def rows_of(home, name):
    return Loader({name: home / "cache" / name}, {name: 1.0}, 1, 128, 0).sources[0]


def test_documents_begin_with_bos_and_end_with_eos_and_dialogues_follow_the_template(home):
    tok = Tokenizer(home / "tok")
    first = json.loads((home / "en.jsonl").read_text().splitlines()[0])["text"]
    row = rows_of(home, "texts.en").read([0])[0]
    document = [*tok.opening, *tok.encode(first), tok.eos]
    assert row[0].tolist()[: len(document)] == document[:128] and tok.opening == [tok.bos]
    examples = [json.loads(line) for line in (home / "sft.jsonl").read_text().splitlines()]
    wanted = {tuple(encode_chat(tok, one["messages"])[0]) for one in examples}
    chats = rows_of(home, "chats.sft")
    for row in chats.read(list(range(chats.rows))):
        for segment in range(1, row[1].max() + 1):
            wanted.discard(tuple(row[0][row[1] == segment].tolist()))
    assert not wanted


def test_it_samples_and_evaluates(home):
    tok = Tokenizer(home / "tok")
    record = json.loads((home / "answers/candidates.jsonl").read_text())
    assert all(tok.decode(c["token_ids"]) == c["text"] for c in record["candidates"])
    assert json.loads((home / "scores/results.json").read_text())["tasks"]["boolq"]["n"] == 3


def test_the_export_has_the_tokenizers_files_byte_for_byte_and_comes_back(home):
    tok = Tokenizer(home / "tok")
    for name in FILES:
        assert (home / "hf" / name).read_bytes() == (home / "tok" / name).read_bytes()
    config, generation = (
        json.loads((home / "hf" / name).read_text()) for name in ("config.json", "generation_config.json")
    )
    assert (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"]) == (tok.bos, tok.eos, None)
    assert config["vocab_size"] == tok.size and generation["eos_token_id"] == sorted(tok.ends)
    was, back = load_model(home / "run"), load_model(home / "again")
    assert was.tokenizer_sha256 == back.tokenizer_sha256 == tok.sha256 == Tokenizer(home / "hf").sha256
    assert was.config == back.config
    for name in ("embed", "head"):
        np.testing.assert_array_equal(np.asarray(was.weights[name])[:8, :8], np.asarray(back.weights[name])[:8, :8])


@pytest.mark.peers
def test_auto_tokenizer_loads_the_exports_ids(home):
    from transformers import AutoTokenizer

    theirs, tok = AutoTokenizer.from_pretrained(home / "hf"), Tokenizer(home / "hf")
    assert theirs.encode("你好 a") == [*tok.opening, *tok.encode("你好 a")]
    plain = [{**TALK[0], "content": "你好"}, TALK[1]]
    assert theirs.apply_chat_template(plain, return_dict=False) == encode_chat(tok, plain)[0]


def test_its_own_ids_of_the_source_are_written_again(home):
    """A list of eos in config.json, as Llama 3.1 has it, stays a list."""
    tok = Tokenizer(home / "tok")
    config = json.loads((home / "hf/config.json").read_text())
    config |= {"eos_token_id": sorted(tok.ends), "pad_token_id": 5}
    (home / "hf/config.json").write_text(json.dumps(config))
    generation = {"eos_token_id": sorted(tok.ends, reverse=True), "temperature": 0.6}
    (home / "hf/generation_config.json").write_text(json.dumps(generation))
    run("convert from-hf hf listed")
    run("convert to-hf listed out --tokenizer tok")
    out = json.loads((home / "out/config.json").read_text())
    assert (out["eos_token_id"], out["pad_token_id"]) == (sorted(tok.ends), 5)
    assert generation.items() <= json.loads((home / "out/generation_config.json").read_text()).items()
