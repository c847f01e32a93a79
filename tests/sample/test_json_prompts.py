"""Prompts and endings where the tokenizer is a tokenizer.json."""

import json_tokenizer

from tigerjax.sample.encoding import encode, stops
from tigerjax.tokenizer.load import Tokenizer

PROMPT = {"prompt_id": "p", "text": "Hi <|eot_id|>"}


def test_what_the_author_names_ends_an_answer_as_stop_and_pad_as_marker(tmp_path):
    llama = Tokenizer(json_tokenizer.write(tmp_path / "llama3", "llama3"))
    qwen = Tokenizer(json_tokenizer.write(tmp_path / "qwen", "qwen"))
    assert stops(llama, chat=True) == dict.fromkeys(llama.ends, "stop") and len(llama.ends) == 2
    assert stops(qwen, chat=True) == {qwen.end: "stop", qwen.pad: "marker"}
    assert stops(qwen, chat=False) == {qwen.end: "stop", qwen.pad: "marker", qwen.encode("\n")[0]: "stop"}


def test_a_prompt_without_chat_begins_with_bos_where_the_tokenizer_puts_it(tmp_path):
    tok = Tokenizer(json_tokenizer.write(tmp_path, "llama3"))
    (prompt,) = encode(tok, [PROMPT], chat=False)
    assert prompt.ids == [tok.bos, *tok.encode("Hi <|eot_id|>\n")]
    (prompt,) = encode(tok, [PROMPT], chat=True)
    assert prompt.ids == tok.template.prompt([{"role": "user", "content": PROMPT["text"]}])
    assert prompt.ids.count(tok.bos) == 1
