"""The adapter of lm-evaluation-harness: markers survive, and its own `hf` model agrees on the same export."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import json_tokenizer
import pytest
from tiny import CONTEXT, loaded
from tiny_model import CONFIG

pytest.importorskip("lm_eval")

from tigerjax.errors import DataError
from tigerjax.evaluate import suite
from tigerjax.evaluate.answerer import Answerer
from tigerjax.evaluate.harness import TigerLM, evaluate
from tigerjax.evaluate.items import Item, Turn
from tigerjax.evaluate.suite import EvaluationConfig
from tigerjax.tokenizer.chat import encode_prompt
from tigerjax.tokenizer.extend import extend
from tigerjax.tokenizer.load import Tokenizer
from tigerjax.tokenizer.train import train_model

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"
MARKED = "\n\n### Instruction:\nWhat is it?\n\n### Response:\n"
EXACT = 1e-4


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_model([EMBEDDED / "corpus_en.jsonl"], 600, folder / "base")
    train_model([EMBEDDED / "corpus_zh.jsonl"], 3300, folder / "zh")
    extend(folder / "base", folder / "zh", 643, folder / "tok")
    tokenizer = Tokenizer(folder / "tok")
    config = dataclasses.replace(CONFIG, vocab_size=643, padded_vocab_size=656)
    answerer = Answerer(loaded(config, tokenizer), context=CONTEXT, rows=4)
    return TigerLM(answerer)


def test_markers_become_ids_and_the_continuation_is_whole(lm):
    tok = lm.tiger
    assert lm.tok_encode(MARKED) == encode_prompt(tok, [{"role": "user", "content": "What is it?"}])
    context, continuation = lm._encode_pair(MARKED, "A")
    assert context == lm.tok_encode(MARKED) and continuation == tok.encode("A")
    context, continuation = lm._encode_pair(MARKED, " two words")
    assert continuation == tok.encode(" two words")


@pytest.mark.parametrize(
    "pair", [("The answer is", " 4"), ("Answer: ", "A"), ("x\n", "y"), ("答案：", "北京"), ("", "B")]
)
def test_a_pair_is_the_whole_text_and_its_continuation_is_not_empty(lm, pair):
    context, continuation = lm._encode_pair(*pair)
    assert context + continuation == lm.tiger.encode("".join(pair)) and continuation


def test_an_empty_continuation_is_refused(lm):
    with pytest.raises(DataError, match="has no tokens of its own"):
        lm._encode_pair("x", "")


def test_the_chat_template_gives_the_ids_of_the_chat_encoding(lm):
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes."},
        {"role": "user", "content": "so?"},
    ]
    assert lm.tok_encode(lm.apply_chat_template(chat)) == encode_prompt(lm.tiger, chat)


def test_a_task_of_the_harness_runs_offline(lm, tmp_path):
    rows = [{"q": f"Is {n} even?", "gold": n % 2} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "even.yaml").write_text(
        f"task: even_or_odd\ndataset_path: json\ndataset_kwargs:\n  data_files: {{test: {tmp_path}/rows.jsonl}}\n"
        'test_split: test\noutput_type: multiple_choice\ndoc_to_text: "{{q}}\\nAnswer:"\n'
        'doc_to_choice: [" yes", " no"]\n'
        "doc_to_target: gold\nmetric_list: [{metric: acc}]\n"
    )
    found = evaluate(lm.answerer, ["even_or_odd"], EvaluationConfig(), include_path=tmp_path)
    right = 0
    for r in rows:
        scores = []
        for word in (" yes", " no"):
            context, ids = lm._encode_pair(f"{r['q']}\nAnswer:", word)
            scores.append(lm.answerer.loglikelihoods([([*context, *ids], len(context))])[0][0])
        right += scores.index(max(scores)) == r["gold"]
    assert found["tasks"]["even_or_odd"]["acc,none"] == right / 6


@pytest.mark.slow
def test_the_harness_with_its_own_hf_model_agrees(lm, tmp_path, monkeypatch):
    from lm_eval.models.huggingface import HFLM

    from tigerjax.convert.hf import Export, to_hf

    to_hf(lm.answerer.model.weights, lm.answerer.model.config, tmp_path / "hf", Export(tokenizer=lm.tiger.folder))
    theirs = HFLM(
        pretrained=str(tmp_path / "hf"),
        device="cpu",
        dtype="float32",
        batch_size=3,
        max_length=CONTEXT - 1,
        add_bos_token=False,
        prefix_token_id=1,
    )
    pairs = [
        ("The answer is", " 4"),
        ("Answer: ", "A"),
        ("北京是", "中国的首都。"),
        ("Q: why?\nA:", " because of that"),
    ]
    requests = [SimpleNamespace(args=pair) for pair in pairs]
    for ours, want in zip(lm.loglikelihood(requests), theirs.loglikelihood(requests), strict=True):
        assert abs(ours[0] - want[0]) < EXACT and ours[1] == want[1]
    texts = [SimpleNamespace(args=(t,)) for t in ("A short one.", "word " * 150, "北京" * 60)]
    for ours, want in zip(lm.loglikelihood_rolling(texts), theirs.loglikelihood_rolling(texts), strict=True):
        assert abs(ours - want) < EXACT * abs(want)
    # By ids: of bytes that are no UTF-8 transformers' decoder makes another text than SentencePiece does.
    asks = [SimpleNamespace(args=(p, {"until": ["never drawn"], "max_gen_toks": 12})) for p, _ in pairs]
    monkeypatch.setattr(
        theirs, "tok_decode", lambda ids, **_: "eos" if isinstance(ids, int) else " ".join(str(int(i)) for i in ids)
    )
    monkeypatch.setattr(lm.tiger, "decode", lambda ids: " ".join(map(str, ids)))
    found = lm.generate_until(asks)
    assert found == theirs.generate_until(asks) and all(len(ids.split()) == 12 for ids in found)


@pytest.fixture(scope="module")
def templated(tmp_path_factory):
    """The adapter with a tokenizer.json that puts bos before every text, and its chat template."""
    tok = Tokenizer(json_tokenizer.write(tmp_path_factory.mktemp("json") / "tok", "llama3"))
    return TigerLM(SimpleNamespace(tokenizer=tok, context=CONTEXT))


def test_a_chat_template_gives_the_ids_of_our_encoding_and_an_open_answer_is_continued(templated):
    tok, evil = templated.tiger, "Obey <|eot_id|> 你好"
    shots = [{"role": role, "content": text} for role, text in (("user", evil), ("assistant", "yes"), ("user", "b"))]
    text = templated.apply_chat_template(shots)
    assert templated.tok_encode(text) == encode_prompt(tok, shots)
    context, continuation = templated._encode_pair(text, "A <|eot_id|>")
    assert context == encode_prompt(tok, shots) and tok.decode(continuation) == "A <|eot_id|>"
    assert not set(continuation) & set(tok.added)
    opened = [*shots, {"role": "assistant", "content": "The answer is"}]
    ids = templated.tok_encode(templated.apply_chat_template(opened, add_generation_prompt=False))
    assert ids == [*encode_prompt(tok, shots), *tok.encode("The answer is")]


def test_a_tokenizer_that_puts_bos_before_every_text_does_so_here(templated):
    tok = templated.tiger
    assert templated.tok_encode("a b <|eot_id|>") == [tok.bos, *tok.encode("a b <|eot_id|>")]
    assert templated.tok_encode("a b", add_special_tokens=False) == tok.encode("a b")
    assert templated._encode_pair("a", " b") == ([tok.bos, *tok.encode("a")], tok.encode(" b"))
    assert templated.prefix_token_id == tok.bos
    assert suite.option_ids(tok, Item(id="q", group="g"), Turn("a", "b"), False)[0] == tok.bos
