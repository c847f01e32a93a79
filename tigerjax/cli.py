"""The `tigerjax` command: thin, one function a subcommand; the work is in the rooms that it calls.

Exit codes: 0 done, 2 bad config (before any work), 3 bad data, 4 waits for people, 5 a gate failed,
130 interrupted (what was trained is saved).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tigerjax
from tigerjax.errors import ConfigError, TigerjaxError


def _figures(figures: dict[str, Any], json: Path | None) -> None:
    """Prints one `key  value` line a figure, and keeps them as JSON where asked."""
    from tigerjax.manifest import write_json

    for key, value in figures.items():
        print(f"{key:24} {value}")
    if json is not None:
        write_json(json, figures)


def quickstart(out: Path = Path("runs/quickstart"), seed: int = 0) -> None:
    """The whole recipe on the embedded data, on a CPU, in minutes; ends in OUT/report.html.

    Example: tigerjax quickstart --out runs/quickstart --seed 0
    """
    from tigerjax.quickstart.run import quickstart as run

    run(out, seed=seed)


def tokenizer_train(input: list[Path], size: int, out: Path, seed: int = 0, json: Path | None = None) -> None:
    """Trains a SentencePiece BPE with Llama-2's settings on text or JSONL files.

    Example: tigerjax tokenizer train --input zh.jsonl --size 38000 --out runs/zh_bpe
    """
    from tigerjax.tokenizer.train import train_model

    manifest = train_model(inputs=input, size=size, out=out, seed=seed)
    _figures(manifest["figures"] | {"out": str(out)}, json)


def tokenizer_extend(base: Path, new: Path, size: int, out: Path, json: Path | None = None) -> None:
    """Merges the Chinese pieces of NEW into BASE, to exactly SIZE entries with the three specials.

    Example: tigerjax tokenizer extend --base llama2/tokenizer.model --new runs/zh_bpe --size 60515 --out tok
    """
    from tigerjax.tokenizer.extend import extend

    manifest = extend(base=base, new=new, size=size, out=out)
    _figures(manifest["figures"] | {"out": str(out)}, json)


def tokenizer_verify(
    folder: Annotated[Path, "positional"], base: Path, text: list[Path], json: Path | None = None
) -> None:
    """Proves the seven properties of a merged tokenizer on your own files; exit 5 if one fails.

    Example: tigerjax tokenizer verify tok --base llama2/tokenizer.model --text en.txt zh.jsonl
    """
    from tigerjax.errors import GateFailed
    from tigerjax.tokenizer.verify import failures, verify

    figures = verify(folder, base=base, texts=text)
    _figures(figures, json)
    if failed := failures(figures):
        raise GateFailed(f"{folder}: {', '.join(failed)}; rebuild it with `tigerjax tokenizer extend`")


def data_clean(input: list[Path], out: Path, json: Path | None = None) -> None:
    """Cleans documents: control characters, HTML leftovers, blank lines; drops what is empty or denied.

    Example: tigerjax data clean --input zh.jsonl en.jsonl --out runs/clean
    """
    from tigerjax.data.clean import clean_files

    _figures(clean_files(input, out)["counts"], json)


def data_dedup(
    kind: Annotated[Literal["exact", "near"], "positional"], input: list[Path], out: Path, json: Path | None = None
) -> None:
    """Removes exact or near duplicates, keeping one document of each cluster.

    Example: tigerjax data dedup near --input runs/clean/zh.jsonl --out runs/dedup
    """
    from tigerjax.data.dedup import dedup_files

    _figures(dedup_files(kind, input, out)["counts"], json)


def data_against_sft(docs: list[Path], sft: list[Path], out: Path, json: Path | None = None) -> None:
    """Removes from pretraining documents what the instruction data already teaches (containment).

    Example: tigerjax data against-sft --docs runs/dedup/zh.jsonl --sft sft.jsonl --out runs/pretrain
    """
    from tigerjax.data.dedup import against_sft_files

    _figures(against_sft_files(docs, sft, out)["counts"], json)


def data_cache(config: Path, overrides: list[str], json: Path | None = None) -> None:
    """Tokenises and cuts every source of the config's mixture into rows of exactly seq_len tokens."""
    from tigerjax.data.mixture import open_loader

    run = _override(config, overrides)
    loader = open_loader(run.data, batch_rows=run.batch_rows, seed=run.seed)
    _figures({"wanted": loader.rates, "rows": loader.rows()}, json)


def data_stats(config: Path, overrides: list[str], json: Path | None = None) -> None:
    """Token shares wanted and realised over one epoch of the config's mixture, fill, rows and tokens."""
    from tigerjax.data.mixture import stats

    run = _override(config, overrides)
    _figures(stats(run.data, batch_rows=run.batch_rows, seed=run.seed), json)


def train(config: Path, overrides: list[str], out: Path | None = None, dry_run: bool = False) -> None:
    """Trains a config: pretraining and SFT differ by mixture and initial weights. Resumes by itself."""
    from tigerjax.config import dump

    run = _override(config, overrides)
    print("\n".join(dump(run)))
    if dry_run:
        return
    from tigerjax.data.mixture import open_loader
    from tigerjax.train.loop import train as loop

    total_rows = run.batch_rows * run.optim.total_steps
    loader = open_loader(run.data, batch_rows=run.batch_rows, seed=run.seed, total_rows=total_rows)
    loop(run, loader, run_dir=out or Path("runs") / run.name)


def sample(
    model: Annotated[Path, "positional"],
    tokenizer: Path,
    prompts: Path,
    out: Path,
    n: int = 10,
    temperature: float = 0.9,
    top_p: float = 0.95,
    max_new_tokens: int = 128,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Samples N answers a prompt, appending to OUT/candidates.jsonl; a restart continues.

    Example: tigerjax sample runs/sft --tokenizer tok --prompts prompts.jsonl --out runs/candidates
    """
    from tigerjax.sample.engine import SamplingConfig
    from tigerjax.sample.run import sample_files

    sampling = SamplingConfig(n=n, temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    _figures(sample_files(model, tokenizer, prompts, out, sampling=sampling, seed=seed), json)


def convert_from_hf(hf_dir: Annotated[Path, "positional"], out: Annotated[Path, "positional"]) -> None:
    """Reads a Hugging Face Llama checkpoint folder into a tigerjax checkpoint.

    Example: tigerjax convert from-hf Llama-2-7b-hf runs/llama2_7b
    """
    from tigerjax.convert.hf import from_hf
    from tigerjax.train.checkpoint import save_model

    config, weights = from_hf(hf_dir)
    save_model(out, weights, config)
    print(f"wrote {out}")


def convert_to_hf(
    checkpoint: Annotated[Path, "positional"],
    out: Annotated[Path, "positional"],
    tokenizer: Path | None = None,
    vocab: Literal["trimmed", "padded"] = "trimmed",
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> None:
    """Writes a folder that `transformers` loads: safetensors, config, tokenizer, chat template.

    Example: tigerjax convert to-hf runs/sft hf_model --tokenizer tok
    """
    from tigerjax.convert.hf import to_hf
    from tigerjax.train.checkpoint import load_model

    model = load_model(checkpoint)
    to_hf(model.weights, model.config, out, tokenizer=tokenizer, dtype=dtype, vocab=vocab)
    print(f"wrote {out}")


def report(run_dir: Annotated[Path, "positional"]) -> None:
    """Draws RUN_DIR/report.html from RUN_DIR/report.json.

    Example: tigerjax report runs/quickstart
    """
    import json

    from tigerjax.errors import DataError
    from tigerjax.report import print_table, render

    source = run_dir / "report.json"
    if not source.is_file():
        raise DataError(f"{source} does not exist; `tigerjax quickstart --out {run_dir}` writes it")
    values = json.loads(source.read_text(encoding="utf-8"))
    render(values, run_dir / "report.html")
    print_table(values)


COMMANDS: dict[tuple[str, ...], Callable[..., None]] = {
    ("quickstart",): quickstart,
    ("tokenizer", "train"): tokenizer_train,
    ("tokenizer", "extend"): tokenizer_extend,
    ("tokenizer", "verify"): tokenizer_verify,
    ("data", "clean"): data_clean,
    ("data", "dedup"): data_dedup,
    ("data", "against-sft"): data_against_sft,
    ("data", "cache"): data_cache,
    ("data", "stats"): data_stats,
    ("train",): train,
    ("sample",): sample,
    ("convert", "from-hf"): convert_from_hf,
    ("convert", "to-hf"): convert_to_hf,
    ("report",): report,
}
WITH_CONFIG = {train, data_cache, data_stats}


def _override(path: Path, overrides: list[str]) -> Any:
    """The config file with dotted overrides applied and validated again."""
    import tyro

    from tigerjax import config

    base = config.load(path)
    return tyro.cli(config.RunConfig, default=base, args=overrides, prog=f"tigerjax … {path}")


def _with_config(function: Callable[..., None], prog: str, args: list[str]) -> None:
    """Commands whose first word is a config file: the function's own flags are taken, the rest are overrides."""
    if not args or args[0].startswith("-"):
        summary = (function.__doc__ or "").splitlines()[0]
        print(f"usage: {prog} CONFIG [--out DIR] [--dry-run] [--json FILE] [--dotted.override VALUE …]\n\n{summary}\n")
        print(f"Example: {prog} configs/llama2_tiny.py --optim.peak-lr 3e-4\n{prog} CONFIG --help lists every field.")
        if args[:1] in (["--help"], ["-h"]):
            return
        raise ConfigError(f"{prog} needs a config file first, such as configs/llama2_tiny.py")
    own: dict[str, Any] = {}
    rest: list[str] = []
    words = iter(args[1:])
    for word in words:
        name = word[2:].replace("-", "_")
        if word in ("--out", "--json") and name in function.__annotations__:
            own[name] = Path(next(words, ""))
        elif word == "--dry-run" and name in function.__annotations__:
            own[name] = True
        else:
            rest.append(word)
    function(Path(args[0]), rest, **own)


def _usage() -> str:
    lines = [f"tigerjax {tigerjax.__version__}: {tigerjax.__doc__}", "", "usage: tigerjax COMMAND …", ""]
    for words, function in COMMANDS.items():
        lines.append(f"  {' '.join(words):22} {(function.__doc__ or '').splitlines()[0]}")
    lines += ["", "`tigerjax COMMAND --help` shows arguments and an example.", (__doc__ or "").split("\n\n")[1]]
    return "\n".join(lines)


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print(_usage())
        return
    if args[0] == "--version":
        print(f"tigerjax {tigerjax.__version__}")
        return
    for words, function in COMMANDS.items():
        if tuple(args[: len(words)]) == words:
            prog, rest = f"tigerjax {' '.join(words)}", args[len(words) :]
            if function in WITH_CONFIG:
                _with_config(function, prog, rest)
            else:
                import tyro

                tyro.cli(_positional(function), args=rest, prog=prog)
            return
    import difflib

    near = difflib.get_close_matches(" ".join(args[:2]), [" ".join(w) for w in COMMANDS], n=1, cutoff=0.5)
    hint = f"; did you mean `tigerjax {near[0]}`?" if near else "; `tigerjax --help` lists the commands"
    raise ConfigError(f"no command {' '.join(args[:2])!r}{hint}")


def _positional(function: Callable[..., None]) -> Callable[..., None]:
    """Turns this file's Annotated[…, "positional"] into tyro's marker, so that tyro is imported only when used."""
    import tyro

    for name, kind in function.__annotations__.items():
        if getattr(kind, "__metadata__", None) == ("positional",):
            function.__annotations__[name] = Annotated[kind.__origin__, tyro.conf.Positional]
    return function


def main(args: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    try:
        _run(sys.argv[1:] if args is None else args)
    except TigerjaxError as error:
        print(f"tigerjax: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("tigerjax: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno != 28:  # ENOSPC: the one system error that users meet as a matter of course
            raise
        print(
            f"tigerjax: no space left on the disk while writing {error.filename or 'output'}; free some",
            file=sys.stderr,
        )
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
