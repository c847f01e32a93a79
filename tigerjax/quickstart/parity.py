"""Does Hugging Face agree? Run as a process of its own, so that torch's memory and threads leave with it.

    python -m tigerjax.quickstart.parity EXPORT_DIR REQUEST.json RESPONSE.json

The request holds `prompts`, lists of token ids, and `max_new_tokens`; the response holds, for each prompt, the
logits of its positions after the export is loaded by `transformers` (float32) and the greedy continuation.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.errors import DataError


def hugging_face(export: Path, request: dict[str, Any]) -> dict[str, Any]:
    """What `transformers` makes of the export: logits (T, V) and greedy ids by prompt, and ids of `texts`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(2)
    model: Any = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(export)
    out: dict[str, Any] = {"logits": [], "greedy": [], "text_ids": []}
    with torch.no_grad():
        for ids in request["prompts"]:
            prompt = torch.tensor([ids])
            out["logits"].append(model(prompt).logits[0].tolist())
            new = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=request["max_new_tokens"],
                do_sample=False,
                eos_token_id=request["stop_ids"],
            )
            out["greedy"].append(new[0, len(ids) :].tolist())
    out["text_ids"] = [tokenizer.encode(text, add_special_tokens=False) for text in request["texts"]]
    return out


def compare(
    model: Any, tokenizer_dir: Path, export: Path, scratch: Path, questions: list[str], max_new_tokens: int
) -> dict[str, Any]:
    """Our logits, greedy ids and token ids beside those of `transformers`, on chat prompts of `questions`.

    Returns hf_max_abs_logit_diff, hf_greedy_equal {prompts, equal} and hf_token_ids_equal {texts, equal}.
    """
    import jax.numpy as jnp

    from tigerjax.checkpoint.loaded import Loaded
    from tigerjax.config import FLOAT32
    from tigerjax.model import families
    from tigerjax.sample.engine import SamplingConfig, generate
    from tigerjax.tokenizer.chat import encode_prompt, stop_ids
    from tigerjax.tokenizer.load import Tokenizer

    tokenizer = Tokenizer(tokenizer_dir)
    chats = [[{"role": "user", "content": question}] for question in questions]
    prompts = [encode_prompt(tokenizer, chat) for chat in chats]
    request = {
        "prompts": prompts,
        "texts": questions,
        "max_new_tokens": max_new_tokens,
        "stop_ids": sorted(stop_ids(tokenizer)),
    }
    (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-m", __name__, str(export), str(scratch / "request.json"), str(scratch / "answer.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{export}: transformers does not load the export: {done.stderr.strip().splitlines()[-1:]}")
    theirs = json.loads((scratch / "answer.json").read_text(encoding="utf-8"))
    (scratch / "answer.json").unlink()  # megabytes of logits

    module, worst = families.of(model.config).language_model(model.config, FLOAT32), 0.0
    longest = max(map(len, prompts))
    for ids, their_TV in zip(prompts, theirs["logits"], strict=True):
        tokens_BT = np.zeros((1, longest), np.int32)
        tokens_BT[0, : len(ids)] = ids
        segments_BT = (np.arange(longest) < len(ids)).astype(np.int32)[None]
        ours_BTV: Any = module.apply({"params": model.weights}, tokens_BT, jnp.arange(longest)[None], segments_BT)
        ours_TV = np.asarray(ours_BTV)[0, : len(ids), : model.config.vocab_size]
        worst = max(worst, float(np.abs(ours_TV - np.asarray(their_TV, np.float32)).max()))

    sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=max_new_tokens, seed=0)
    loaded = Loaded(
        config=model.config, weights=model.weights, tokenizer=tokenizer, compute=FLOAT32, sha256=model.sha256
    )
    records = generate(loaded, [{"prompt_id": str(i), "messages": chat} for i, chat in enumerate(chats)], sampling)
    ours = [record["candidates"][0]["token_ids"] for record in records]
    stops = stop_ids(tokenizer)
    equal = sum(
        mine == [t for t in theirs_ids if t not in stops]
        for mine, theirs_ids in zip(ours, theirs["greedy"], strict=True)
    )
    same_ids = sum(tokenizer.encode(q) == ids for q, ids in zip(questions, theirs["text_ids"], strict=True))
    return {
        "hf_max_abs_logit_diff": worst,
        "hf_greedy_equal": {"prompts": len(prompts), "equal": equal},
        "hf_token_ids_equal": {"texts": len(questions), "equal": same_ids},
    }


if __name__ == "__main__":
    answer = hugging_face(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    Path(sys.argv[3]).write_text(json.dumps(answer), encoding="utf-8")
