"""Greedy decoding beside `transformers.generate`, from exported weights."""

from pathlib import Path

import pytest

from tigerjax.convert.hf import Export, to_hf
from tigerjax.sample.engine import Batching, SamplingConfig, generate
from tigerjax.tokenizer.chat import encode_prompt, stop_ids

NEW_TOKENS = 24


@pytest.mark.slow
@pytest.mark.peers
def test_greedy_is_that_of_transformers_token_for_token(tiny, prompts, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    to_hf(tiny.weights, tiny.config, tmp_path / "hf", Export(tokenizer=None))
    theirs = LlamaForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=NEW_TOKENS, seed=0)
    records = generate(tiny.loaded(), prompts, sampling, batching=Batching(prompts=4, rows=8))
    ended = 0
    for record in records:
        ids = torch.tensor([encode_prompt(tiny.tokenizer, record["messages"])])
        stops = sorted(stop_ids(tiny.tokenizer))
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            eos_token_id=stops,
            pad_token_id=tiny.tokenizer.pad,
        )
        want = out[0, ids.shape[1] :].tolist()
        if want[-1] in stops:
            want.pop()
            ended += 1
        assert record["candidates"][0]["token_ids"] == want
    assert ended < len(prompts)  # some answers were compared over their whole length
