"""What `transformers` makes of the exported folder; it must give SentencePiece's ids."""

import itertools
import json

import jinja2
import pytest
from linear import assert_linear

from tigerjax.tokenizer.chat import encode_chat, encode_prompt
from tigerjax.tokenizer.export import CHAT_TEMPLATE, merges
from tigerjax.tokenizer.extend import extend
from tigerjax.tokenizer.load import Tokenizer


def load(folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(folder))


@pytest.fixture(scope="module")
def hf(folder):
    return load(folder)


def embedded_lines(embedded):
    for name in ("corpus_en.jsonl", "corpus_zh.jsonl"):
        for record in open(embedded / name, encoding="utf-8"):
            yield from (line for line in json.loads(record)["text"].split("\n") if line)


@pytest.mark.peers
def test_ids_equal_sentencepiece_on_thousands_of_lines_and_the_hard_list(hf, tok, embedded, hard_lines):
    lines = [*embedded_lines(embedded), *hard_lines]
    assert len(lines) > 9000
    theirs = hf(lines, add_special_tokens=False)["input_ids"]
    assert [line for ids, line in zip(theirs, lines, strict=True) if ids != tok.encode(line)] == []
    assert [line for line in hard_lines if hf.decode(tok.encode(line)) != line] == []


@pytest.mark.peers
def test_the_32000_piece_base_extended_gives_the_same_ids_beside_a_llama_config(
    embedded, zh_folder, hard_lines, tmp_path
):
    extend(embedded / "base_32000.model", zh_folder, 33_003, tmp_path / "big")
    (tmp_path / "big" / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 33_003}))
    hf, tok = load(tmp_path / "big"), Tokenizer(tmp_path / "big")
    lines = [*embedded_lines(embedded)][::5] + hard_lines
    theirs = hf(lines, add_special_tokens=False)["input_ids"]
    assert [line for ids, line in zip(theirs, lines, strict=True) if ids != tok.encode(line)] == []


@pytest.mark.peers
def test_specials_and_their_ids_are_known_there(hf, tok):
    assert len(hf) == tok.size
    assert hf.convert_tokens_to_ids(["\n\n### Instruction:\n", "\n\n### Response:\n", "<pad>"]) == [3000, 3001, 3002]
    assert (hf.bos_token_id, hf.eos_token_id, hf.pad_token_id, hf.unk_token_id) == (1, 2, 3002, 0)


@pytest.mark.peers
@pytest.mark.parametrize("answered", [False, True])
def test_the_chat_template_gives_the_ids_of_our_chat_encoding(hf, tok, answered):
    messages = [
        {"role": "user", "content": " What is  the capital?\n"},
        {"role": "assistant", "content": "首都是伦敦。"},
        {"role": "user", "content": "Sure? 😀"},
        {"role": "assistant", "content": "Yes\n"},
    ]
    messages = messages if answered else messages[:3]
    text = hf.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answered)
    ours = encode_chat(tok, messages)[0] if answered else encode_prompt(tok, messages)
    assert hf(text, add_special_tokens=False)["input_ids"] == ours
    theirs = hf.apply_chat_template(messages, tokenize=True, add_generation_prompt=not answered, return_dict=True)
    assert theirs["input_ids"] == ours


def test_the_chat_template_puts_a_system_text_in_front_of_the_users_message():
    def refuse(why):
        raise ValueError(why)

    template = jinja2.Environment().from_string(CHAT_TEMPLATE, globals={"raise_exception": refuse})
    talk = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye")]
    messages = [{"role": role, "content": text} for role, text in talk]
    text = template.render(messages=messages, eos_token="</s>", add_generation_prompt=True)
    first = "\n\n### Instruction:\nBe kind.\n\nHi\n\n### Response:\nHello</s>"
    assert text == first + "\n\n### Instruction:\nBye\n\n### Response:\n"
    assert template.render(messages=messages[1:], eos_token="</s>").endswith("### Instruction:\nBye")
    for wrong in (messages[:1], [messages[0], messages[2]], [messages[1], messages[0], messages[2]], [messages[1]] * 2):
        with pytest.raises(ValueError, match=r"roles must alternate|must be followed"):
            template.render(messages=wrong, eos_token="</s>")


def test_merges_are_all_splits_by_score_then_ids():
    pieces = [("a", -3.0), ("b", -4.0), ("c", -5.0), ("ab", 0.0), ("bc", -1.0), ("abc", -2.0)]
    assert merges(pieces) == [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]


def test_merges_of_60000_pieces_take_linear_time():
    def merge(size):
        characters = [chr(0x4E00 + n) for n in range(size)]
        pieces = characters + [a + b for a, b in itertools.pairwise(characters)]
        pieces += [a + b + c for a, b, c in zip(characters, characters[1:], characters[2:], strict=False)]
        pieces += [a * 16 for a in characters]
        found = merges([(text, -float(n)) for n, text in enumerate(pieces)])
        assert len(found) == size - 1 + 2 * max(0, size - 2)

    assert_linear(merge, 15_000)
