"""Commands that make tokenizers and check them."""

from pathlib import Path
from typing import Annotated, Any

from tigerjax.command.figures import save, show
from tigerjax.command.groups import HERE, READ, At, Read, given, runner
from tigerjax.command.progress import show_elapsed, show_progress
from tigerjax.config.ranges import Count, CountOrZero, Pieces, PositiveShare, Seed, Share
from tigerjax.errors import GateFailed
from tigerjax.terminal import show as to_terminal


# One parameter for each option of the command.
def tokenizer_sample(
    input: list[Path],
    out: Path,
    fraction: PositiveShare = 0.10,
    min_sample_bytes: CountOrZero = 1_000_000,
    max_sentences: Count = 10_000_000,
    max_bad_fraction: Share = 0.001,
    seed: Seed = 0,
    reading: Read = READ,
    at: At = HERE,
    verify: bool = False,
    json: Path | None = None,
) -> None:
    """Draws a share of the documents, by the hash of their ids, and cuts them into lines.

    Records that cannot be read go to OUT/quarantine.json; more of them than --max-bad-fraction are an error. --workers
    and --runner change no byte of it. Where that is done already, --verify also compares the bytes of the
    output.

    Example: tigerjax tokenizer sample --input zh.jsonl --out runs/zh_sample --fraction 0.1
    """
    from tigerjax.records import expand, quarantine
    from tigerjax.tokenizer.sample import sample

    manifest = sample(
        inputs=expand(given(input, reading)),
        out=out,
        fraction=fraction,
        seed=seed,
        min_sample_bytes=min_sample_bytes,
        max_sentences=max_sentences,
        max_bad_fraction=max_bad_fraction,
        runner=runner(at, verify=verify),
    )
    show(manifest["figures"] | {"out": str(out)}, json)
    quarantine.tell(out, manifest["figures"].get("bad", 0))


def tokenizer_train(
    input: list[Path],
    vocab_size: Pieces,
    out: Path,
    base: Path | None = None,
    seed: Seed = 0,
    reading: Read = READ,
    verify: bool = False,
    json: Path | None = None,
) -> None:
    """Trains a SentencePiece BPE with Llama-2's settings on files of records or plain text.

    With --base, a folder with the tokenizer.json of a byte-level BPE, new merges are trained on top of its own.

    Where that is done already, --verify also compares the bytes of the output.

    Example: tigerjax tokenizer train --input zh.jsonl --vocab-size 38000 --out runs/zh_bpe
    """
    from tigerjax.records import expand
    from tigerjax.tokenizer import bpe_extend
    from tigerjax.tokenizer.train import train_model

    if base is not None:
        files = expand(given(input, reading))
        made = bpe_extend.train_on(base, files, vocab_size, out, progress=show_progress, verify=verify)
        show(made["figures"] | {"out": str(out)}, json)
        return
    how: Any = {"progress": show_progress, "elapsed": show_elapsed, "verify": verify}
    show(
        train_model(expand(given(input, reading)), vocab_size, out, seed=seed, **how)["figures"] | {"out": str(out)},
        json,
    )


def tokenizer_extend(
    base: Path, new: Path, vocab_size: Pieces, out: Path, verify: bool = False, json: Path | None = None
) -> None:
    """Adds the Chinese pieces of NEW to BASE, up to exactly VOCAB_SIZE entries.

    Where BASE is a folder with a tokenizer.json alone, NEW is what `tigerjax tokenizer train --base BASE` made of it.

    Where that is done already, --verify also compares the bytes of the output.

    Example: tigerjax tokenizer extend --base llama2/tokenizer.model --new runs/zh_bpe --vocab-size 60515 --out tok
    """
    from tigerjax.files import paths
    from tigerjax.tokenizer import bpe_extend
    from tigerjax.tokenizer.added import is_json
    from tigerjax.tokenizer.extend import extend

    if is_json(paths.of(base)):
        made = bpe_extend.extend(base, new, vocab_size, out, verify=verify)
        show(made["figures"] | {"out": str(out)}, json)
        return
    figures = extend(base=base, new=new, size=vocab_size, out=out, verify=verify)["figures"]
    show(figures | {"out": str(out)}, json)
    if left := figures["characters_left_out"]:
        to_terminal(
            f"note: {left} single characters of {new} were left out, the most common first:"
            f" {figures['most_common_left_out']}; they cost a token a byte. {figures['survivors']} pieces survived and"
            f" {figures['new_pieces']} are needed: train NEW on the same text with --vocab-size"
            f" {figures['fitting_size']} to keep them"
            + (f", and extend to --vocab-size {larger}" if (larger := figures.get("fitting_vocab_size")) else "")
        )


def tokenizer_verify(
    folder: Annotated[Path, "positional"],
    base: Path,
    text: list[Path],
    reading: Read = READ,
    at: At = HERE,
    json: Path | None = None,
) -> None:
    """Checks the seven properties of an extended tokenizer on your own files; exit 5 if one fails.

    Example: tigerjax tokenizer verify tok --base llama2/tokenizer.model --text en.txt zh.jsonl
    """
    from tigerjax.records import expand
    from tigerjax.tokenizer.verify import failures, property_table, verify

    figures = verify(folder, base=base, texts=expand(given(text, reading)), runner=runner(at))
    to_terminal("\n".join(property_table(figures)))
    save(figures, json)
    if failed := failures(figures):
        raise GateFailed(f"{folder}: {', '.join(failed)}; rebuild it with `tigerjax tokenizer extend`")


def tokenizer_stats(
    folder: Annotated[Path, "positional"],
    text: list[Path],
    reading: Read = READ,
    at: At = HERE,
    json: Path | None = None,
) -> None:
    """Shows characters per token by language, what becomes bytes, and pieces that no text uses.

    Example: tigerjax tokenizer stats tok --text en.txt zh.jsonl
    """
    from tigerjax.records import expand
    from tigerjax.tokenizer.stats import stats

    show(stats(folder, expand(given(text, reading)), runner(at)), json)
