"""Commands that convert checkpoints: from and to Hugging Face, and to a larger vocabulary."""

import dataclasses
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tigerjax.command.figures import show
from tigerjax.command.options import FLAT
from tigerjax.command.progress import show_elapsed, show_progress
from tigerjax.config import ModelConfig
from tigerjax.config.ranges import Count, Seed
from tigerjax.errors import ConfigError

if TYPE_CHECKING:
    from tigerjax.tokenizer.load import Tokenizer

PAD_TO_MULTIPLE_OF = 512


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Which entries an imported model has."""

    tokenizer: Path | None = None
    vocab_size: Count | None = None
    pad_to_multiple_of: Count | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewRows:
    """How the rows of new tokens begin."""

    new_rows: Literal["mean", "random", "distilled"] = "mean"
    """mean of the rows of the old tokens that spell the same; random as in a new model; or distilled from the text."""
    text: tuple[Path, ...] = ()
    """Files that hold the new tokens, for distilled rows."""
    snippets: Count = 100  # Pieces of text that distilled rows are learnt from, for each new token
    seed: Seed = 0  # Of random rows


def from_hf(
    hf_dir: Annotated[Path, "positional"],
    out: Annotated[Path, "positional"],
    base: Path | None = None,
    vocabulary: Annotated[Vocabulary, FLAT] = Vocabulary(),  # frozen
    dtype: Literal["float32", "bfloat16"] = "float32",
    verify: bool = False,
    json: Path | None = None,
) -> None:
    """Converts a Hugging Face folder into a tigerjax checkpoint.

    The folder holds a language model or a reward model. Meta's own files (params.json, consolidated.00.pth) are read
    too. A LoRA adapter of PEFT is merged into the model of --base: a folder like these, or a run.

    Where the embedding has more rows than the folder's tokenizer has entries, the others are padding. --vocab-size says
    how many entries there are where the folder has no tokenizer. With --tokenizer, an extended tokenizer, the
    vocabulary grows from that of the folder's tokenizer to it. One tensor is read at a time; the same command
    continues an interrupted conversion. --verify reads everything again, and compares the logits of both models for a
    short text.

    Example: tigerjax convert from-hf Llama-2-7b-hf runs/llama2_7b --verify
    """
    from tigerjax.checkpoint.stored import open_model
    from tigerjax.convert import read, sources
    from tigerjax.convert import verify as check
    from tigerjax.convert.read import stream_model
    from tigerjax.convert.vocab import first_new, sub_tokens
    from tigerjax.model.weights import tensor_bytes
    from tigerjax.processes import hosts
    from tigerjax.tokenizer.agreement import other_template
    from tigerjax.tokenizer.load import Tokenizer

    started = time.perf_counter()
    tokenizer, multiple = vocabulary.tokenizer, vocabulary.pad_to_multiple_of
    if multiple is not None and tokenizer is None:
        raise ConfigError("--pad-to-multiple-of is for a vocabulary that grows; give --tokenizer too, or leave it out")
    source = sources.opened(hf_dir, base, vocabulary.vocab_size)
    opened, own = source.opened, source.tokenizer
    if tokenizer is not None:
        if own is None:
            raise ConfigError(
                f"{opened.where} has no tokenizer that is read, from which it could grow; put the model's own there"
            )
        old, own = own, Tokenizer(tokenizer)
        stands_for = sub_tokens(opened.config.vocab_size, old, own)
        opened = read.grow(opened, first_new(old), stands_for, multiple=multiple or PAD_TO_MULTIPLE_OF)
    if own is not None and (line := other_template(own.folder)):
        hosts.say(line)
    progress = show_progress("converted", "GB")
    stream_model(
        out,
        lambda partial: read.stream_in(opened, partial, dtype=dtype, on_bytes=progress),
        opened.config,
        kind=opened.kind,
        tokenizer_sha256=own.sha256 if own else source.tokenizer_sha256,
        extra=opened.extra | {"source": source.facts},
    )
    size = 4 if dtype == "float32" else 2
    figures: dict[str, Any] = {
        "tensors": len(opened.tensors.shapes),
        "bytes": tensor_bytes(opened.spec, opened.config, size),
        "vocab_size": opened.config.vocab_size,
        "padded_vocab_size": opened.config.padded_vocab_size,
    }
    if verify:
        model = open_model(out)
        figures |= check.imported(model.path, model.weights, opened, dtype, show_progress("verified", "GB"))
    show(_figures(figures, started) | {"out": str(out)}, json)


def to_hf(  # each parameter is an option of the command
    checkpoint: Annotated[Path, "positional"],
    out: Annotated[Path, "positional"],
    tokenizer: Path | None = None,
    keep_padding: bool = False,
    adapter: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    weights: Literal["trained", "ema"] = "trained",
    verify: bool = False,
    json: Path | None = None,
) -> None:
    """Writes a folder that `transformers` loads.

    It has safetensors, config, tokenizer, chat template and a model card. A language model becomes LlamaForCausalLM, a
    reward model LlamaForSequenceClassification, or those of its own family. --weights ema takes the running mean of the
    weights, which a run with optim.ema_decay has. One tensor is written at a time; the same
    command continues an interrupted conversion. --verify reads everything again, and compares the logits of both models
    for a short text.

    The adapters of a run that trained some (lora.rank) are merged into their base. With --adapter they are written
    alone, as PEFT does; --verify then reads them again.

    Example: tigerjax convert to-hf runs/sft hf_model --tokenizer tok --dtype bfloat16 --verify
    """
    from tigerjax.checkpoint.loaded import check_fits
    from tigerjax.checkpoint.stored import open_whole
    from tigerjax.convert import hf, of_checkpoint
    from tigerjax.convert import verify as check
    from tigerjax.convert.peft import to_peft
    from tigerjax.model import families
    from tigerjax.tokenizer.load import Tokenizer

    started = time.perf_counter()
    model = open_whole(checkpoint, mean=weights == "ema")
    if tokenizer is not None:
        check_fits(model, Tokenizer(tokenizer), where=checkpoint, reward=families.is_reward(model.kind))
    form = of_checkpoint.export(
        model,
        checkpoint.name,
        tokenizer=tokenizer,
        dtype=dtype,
        vocab="padded" if keep_padding else "trimmed",
        weights=weights,
    )
    counts: dict[str, Any]
    if adapter and weights == "ema":
        raise ConfigError("--adapter writes the adapter as it was trained; leave --weights ema or --adapter out")
    if adapter:
        counts = dict(to_peft(model, out, form, verify=verify))
    else:
        counts = hf.to_hf(model.weights, model.config, out, form, on_bytes=show_progress("converted", "GB"))
    if verify and not adapter:
        counts |= check.exported(out, model.weights, model.config, dtype, show_progress("verified", "GB"))
    show(_figures(counts, started) | {"out": str(out)}, json)


def resize(
    checkpoint: Annotated[Path, "positional"],
    out: Annotated[Path, "positional"],
    base: Path,
    tokenizer: Path,
    pad_to_multiple_of: Count = PAD_TO_MULTIPLE_OF,
    start: Annotated[NewRows, FLAT] = NewRows(),  # frozen
    json: Path | None = None,
) -> None:
    """Grows a checkpoint's vocabulary from that of BASE to that of TOKENIZER, which extends it.

    BASE splits each new token into old ones: the mean of their rows is the row of the new token, in the embedding and
    the head. Old rows do not change; those of the special tokens of BASE move to theirs in TOKENIZER. Rows of zeros
    pad the vocabulary to a multiple of PAD_TO_MULTIPLE_OF.

    With --new-rows distilled, the embedding rows are then trained on TEXT until the model makes of the new tokens what
    it made of the old ones (arXiv 2505.20133).

    Example: tigerjax convert resize runs/llama2_7b runs/llama2_7b_zh --base tokenizer.model --tokenizer tok
    """
    from tigerjax.checkpoint.loaded import check_fits
    from tigerjax.checkpoint.model import load_model, save_model
    from tigerjax.convert.vocab import first_new, moved, sub_tokens
    from tigerjax.convert.vocab import resize as grow
    from tigerjax.model.hf_config import moved_ids, remembered
    from tigerjax.tokenizer.load import Tokenizer

    if (start.new_rows == "distilled") != bool(start.text):
        raise ConfigError(
            "--new-rows distilled learns from --text, and no other --new-rows reads it; give both or neither"
        )
    with show_elapsed(f"reading {checkpoint}"):
        model = load_model(checkpoint)
    old, extended = Tokenizer(base), Tokenizer(tokenizer)
    check_fits(model, old, where=checkpoint)
    rows: Any = "random" if start.new_rows == "random" else "mean"
    weights, config = grow(
        model.weights, model.config, old, extended, multiple=pad_to_multiple_of, rows=rows, seed=start.seed
    )
    learnt: dict[str, Any] = {}
    if start.new_rows == "distilled":
        weights, learnt = _distilled(weights, config, old, extended, start)
    with show_elapsed(f"writing {out}"):
        extra = model.extra | remembered(model.extra, model.run_config)
        extra = moved_ids(extra, moved(first_new(old), sub_tokens(model.config.vocab_size, old, extended)))
        save_model(out, weights, config, tokenizer_sha256=extended.sha256, extra=extra)
    sizes = {"vocab_size": config.vocab_size, "padded_vocab_size": config.padded_vocab_size}
    show(sizes | learnt | {"out": str(out)}, json)


def _distilled(
    weights: dict[str, Any], config: ModelConfig, base: "Tokenizer", tokenizer: "Tokenizer", how: NewRows
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the weights with learnt rows for the new tokens, what training them gave)."""
    from tigerjax.config import ComputeConfig
    from tigerjax.convert.vocab import first_new
    from tigerjax.records import expand
    from tigerjax.tokenizer.sample import read_all
    from tigerjax.train import new_rows

    first, settings = first_new(base), new_rows.DistilConfig(snippets=how.snippets)
    texts = (text for _, text, _ in read_all(expand(how.text), show_progress("read", "GB")))
    given = new_rows.snippets(texts, base, tokenizer, first, settings)
    compute = ComputeConfig(attention="reference", remat="full", dtype="float32", loss_chunk_tokens=1024)
    bar = show_progress("learnt", "steps")
    embed_VD, figures = new_rows.distil(weights, config, given, first, settings, compute, progress=bar)
    return weights | {"embed": embed_VD}, {"snippets": len(given)} | figures


def _figures(counts: dict[str, Any], started: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes, but bytes on macOS
    peak_gb = peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9
    return {**counts, "peak_rss_gb": round(peak_gb, 3), "seconds": round(time.perf_counter() - started, 3)}
