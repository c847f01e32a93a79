"""Does the exported model give the same answers outside tigerjax? Asked of `transformers`, or else of a numpy Llama.

`transformers` runs in a process of its own, so that the memory and threads of torch are gone afterwards:

    python -m tigerjax.quickstart.parity EXPORT_DIR REQUEST.json RESPONSE.json

The request holds `prompts` (lists of token ids), `texts`, `max_new_tokens` and `stop_ids`. The response holds `logits`
and `greedy` for each prompt, and the `text_ids` of each text. Where `transformers` or torch is not installed, the Llama
that is written out in numpy reads the export; then nothing is said about the exported tokenizer.
"""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tigerjax.errors import DataError
from tigerjax.files import manifest
from tigerjax.quickstart.answers import ANSWER_TOKENS
from tigerjax.quickstart.state import TEST, Quickstart

PROMPTS = 16

Peer = Literal["transformers", "numpy"]


def hugging_face(quick: Quickstart, run_dir: Path) -> dict[str, Any]:
    """Exports the model of `run_dir` to OUT/hf and returns the figures of `compare` on held-out questions."""
    from tigerjax.checkpoint.model import load_model
    from tigerjax.checkpoint.stored import open_whole
    from tigerjax.convert import of_checkpoint
    from tigerjax.convert.hf import to_hf

    out, peer = quick.out, installed_peer()
    if peer == "numpy":
        quick.console.print(
            "torch or transformers is not installed: the export is compared with a Llama in numpy only;"
            " pip install 'tigerjax[hf]' and the same command again compares with transformers"
        )
    with manifest.stage(
        out / "parity",
        name="parity",
        config={"prompts": PROMPTS, "peer": peer},
        inputs=[run_dir / manifest.FILE, out / "tokenizer"],
    ) as run:
        if run.done and (out / "hf").is_dir():
            assert run.manifest is not None
            return run.manifest["figures"]
        model = load_model(run_dir)
        export = of_checkpoint.export(open_whole(run_dir), str(run_dir.relative_to(out)), tokenizer=out / "tokenizer")
        to_hf(model.weights, model.config, out / "hf", export)
        run.figures = compare(model, out / "tokenizer", out / "hf", run.tmp, _questions(), peer)
        return run.figures


def installed_peer() -> Peer:
    """transformers if it can be imported here together with torch, else the numpy Llama."""
    return "transformers" if all(map(importlib.util.find_spec, ("torch", "transformers"))) else "numpy"


def _questions() -> list[str]:
    """Held-out questions, spread evenly over their file."""
    from tigerjax.evaluate import questions

    asked = questions.load(TEST)
    return [q.prompt for q in asked[:: max(1, len(asked) // PROMPTS)]][:PROMPTS]


def compare(
    model: Any, tokenizer_dir: Path, export: Path, scratch: Path, questions: list[str], peer: Peer
) -> dict[str, Any]:
    """Our logits and greedy ids beside those of `peer`, on chat prompts of `questions`.

    Returns hf_compared_with, hf_max_abs_logit_diff and hf_greedy_equal {prompts, equal}; with transformers also
    hf_token_ids_equal {texts, equal}.
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
    stops = stop_ids(tokenizer)
    request = {
        "prompts": prompts,
        "texts": questions,
        "max_new_tokens": ANSWER_TOKENS,
        "stop_ids": sorted(stops),
    }
    theirs = ask_transformers(export, request, scratch) if peer == "transformers" else ask_numpy(export, request)

    module, worst = families.of(model.config).language_model(model.config, FLOAT32), 0.0
    longest = max(map(len, prompts))
    for ids, their_TV in zip(prompts, theirs["logits"], strict=True):
        tokens_BT = np.zeros((1, longest), np.int32)
        tokens_BT[0, : len(ids)] = ids
        segments_BT = (np.arange(longest) < len(ids)).astype(np.int32)[None]
        ours_BTV: Any = module.apply({"params": model.weights}, tokens_BT, jnp.arange(longest)[None], segments_BT)
        ours_TV = np.asarray(ours_BTV)[0, : len(ids), : model.config.vocab_size]
        worst = max(worst, float(np.abs(ours_TV - np.asarray(their_TV, np.float32)).max()))

    sampling = SamplingConfig(n=1, temperature=0.0, max_new_tokens=ANSWER_TOKENS, seed=0)
    loaded = Loaded(
        config=model.config, weights=model.weights, tokenizer=tokenizer, compute=FLOAT32, sha256=model.sha256
    )
    records = generate(loaded, [{"prompt_id": str(i), "messages": chat} for i, chat in enumerate(chats)], sampling)
    ours = [record["candidates"][0]["token_ids"] for record in records]
    equal = sum(
        mine == [t for t in theirs_ids if t not in stops]
        for mine, theirs_ids in zip(ours, theirs["greedy"], strict=True)
    )
    figures = {
        "hf_compared_with": peer,
        "hf_max_abs_logit_diff": worst,
        "hf_greedy_equal": {"prompts": len(prompts), "equal": equal},
    }
    if peer == "transformers":
        same_ids = sum(tokenizer.encode(q) == ids for q, ids in zip(questions, theirs["text_ids"], strict=True))
        figures["hf_token_ids_equal"] = {"texts": len(questions), "equal": same_ids}
    return figures


def ask_numpy(export: Path, request: dict[str, Any]) -> dict[str, Any]:
    """`logits` (T, V) and `greedy` ids for each prompt of the request, by the numpy Llama on the exported files."""
    from tigerjax.convert.read import open_hf
    from tigerjax.model import families

    opened = open_hf(export)
    family = families.of(opened.config)
    out: dict[str, Any] = {"logits": [], "greedy": []}

    def logits(ids: list[int]) -> np.ndarray:
        logits_TV = family.numpy_logits(opened.tensors.rows, opened.config, opened.spec, np.array(ids), "float32")
        return logits_TV[:, : opened.config.vocab_size]

    for prompt in request["prompts"]:
        logits_TV = logits(prompt)
        out["logits"].append(logits_TV)
        new: list[int] = []
        while len(new) < request["max_new_tokens"]:
            new.append(int(logits_TV[-1].argmax()))
            if new[-1] in request["stop_ids"]:
                break
            logits_TV = logits(prompt + new)
        out["greedy"].append(new)
    return out


def ask_transformers(export: Path, request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    """What `run_transformers` answers in a process of its own; DataError if it does not load the export."""
    asked, answered = scratch / "request.json", scratch / "answer.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    command = [sys.executable, "-m", __name__, str(export), str(asked), str(answered)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"{export}: transformers does not load the export: {done.stderr.strip().splitlines()[-1:]}")
    answer = json.loads(answered.read_text(encoding="utf-8"))
    answered.unlink()  # megabytes of logits
    return answer


def run_transformers(export: Path, request: dict[str, Any]) -> dict[str, Any]:
    """`logits` (T, V) and `greedy` ids for each prompt, and `text_ids` for each text, by transformers in float32."""
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


if __name__ == "__main__":
    response = run_transformers(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))
    Path(sys.argv[3]).write_text(json.dumps(response), encoding="utf-8")
