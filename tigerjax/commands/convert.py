"""Commands that turn one checkpoint into another: Hugging Face both ways, and a larger vocabulary."""

import resource
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from tigerjax.arguments import show
from tigerjax.errors import ConfigError


def from_hf(
    hf_dir: Annotated[Path, "positional"], out: Annotated[Path, "positional"], json: Path | None = None
) -> None:
    """Reads a Hugging Face Llama folder (a language or a reward model) into a tigerjax checkpoint.

    The checkpoint remembers the tokenizer.model of the folder, where there is one.

    Example: tigerjax convert from-hf Llama-2-7b-hf runs/llama2_7b
    """
    from tigerjax.convert import hf
    from tigerjax.tokenizer.load import MODEL_FILE, Tokenizer
    from tigerjax.train.checkpoint import save_model

    started = time.perf_counter()
    config, weights = hf.from_hf(hf_dir)
    tokenizer_sha256 = Tokenizer(hf_dir).sha256 if (hf_dir / MODEL_FILE).is_file() else None
    kind = "reward" if "score" in weights else "llama"
    save_model(out, weights, config, kind=kind, tokenizer_sha256=tokenizer_sha256)
    show(_figures(hf.size(weights, config), started) | {"out": str(out)}, json)


def to_hf(
    checkpoint: Annotated[Path, "positional"],
    out: Annotated[Path, "positional"],
    tokenizer: Path | None = None,
    vocab: Literal["trimmed", "padded"] = "trimmed",
    dtype: Literal["float32", "bfloat16"] = "float32",
    json: Path | None = None,
) -> None:
    """Writes a folder that `transformers` loads: safetensors, config, tokenizer, chat template.

    Example: tigerjax convert to-hf runs/sft hf_model --tokenizer tok
    """
    from tigerjax.convert import hf
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.train.checkpoint import load_model

    started = time.perf_counter()
    model = load_model(checkpoint)
    if tokenizer is not None and model.tokenizer_sha256 not in (None, Tokenizer(tokenizer).sha256):
        raise ConfigError(
            f"{checkpoint} was trained with another tokenizer than {tokenizer} (sha256 differs); give its own"
        )
    write = hf.to_hf_reward if model.kind == "reward" else hf.to_hf
    counts = write(model.weights, model.config, out, tokenizer=tokenizer, dtype=dtype, vocab=vocab)
    show(_figures(counts, started) | {"out": str(out)}, json)


def resize(
    checkpoint: Annotated[Path, "positional"],
    out: Annotated[Path, "positional"],
    base: Path,
    new: Path,
    multiple: int = 128,
    json: Path | None = None,
) -> None:
    """Grows a checkpoint's vocabulary from tokenizer BASE to NEW; a new row is the mean of its old tokens' rows.

    Rows are padded with zeros to a multiple of MULTIPLE; old rows keep every bit.

    Example: tigerjax convert resize runs/llama2_7b runs/llama2_7b_zh --base tokenizer.model --new tok --multiple 512
    """
    from tigerjax.convert.vocab import resize as grow
    from tigerjax.tokenizer.load import Tokenizer
    from tigerjax.train.checkpoint import load_model, save_model

    model, old, extended = load_model(checkpoint), Tokenizer(base), Tokenizer(new)
    if model.kind != "llama" or model.tokenizer_sha256 not in (None, old.sha256):
        raise ConfigError(
            f"{checkpoint} is a {model.kind} checkpoint of another tokenizer than {base}; give a language model and its"
            " own tokenizer"
        )
    weights, config = grow(model.weights, model.config, old, extended, multiple=multiple)
    save_model(out, weights, config, tokenizer_sha256=extended.sha256)
    show({"vocab_size": config.vocab_size, "padded_vocab_size": config.padded_vocab_size, "out": str(out)}, json)


def _figures(counts: dict[str, int], started: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but bytes on macOS
    peak_gb = peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
    return {**counts, "peak_rss_gb": round(peak_gb, 3), "seconds": round(time.perf_counter() - started, 3)}
