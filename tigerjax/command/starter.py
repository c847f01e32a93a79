"""`tigerjax new`: writes a project for one's own model, with all files that the recipe needs."""

import dataclasses
import json as json_lib
import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from tigerjax.command import project, starter_checks, starter_files
from tigerjax.command.figures import save
from tigerjax.command.options import FLAT, OnDisk
from tigerjax.config import ModelConfig, stored_sizes
from tigerjax.config.ranges import Count, Range
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.terminal import show, tell

LONGEST = 4096  # tokens in a row, where the base model reads more
COMPUTE = {
    "tpu": 'attention="splash", remat="save_dots", dtype="bfloat16", loss_chunk_tokens=65536',
    "gpu": 'attention="cudnn", remat="save_dots", dtype="bfloat16", loss_chunk_tokens=16384',
    "cpu": 'attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """The checkpoint and the files that a project starts from."""

    base: Path  # A Llama-2 in the form of Hugging Face, with its tokenizer.model
    zh: list[Path]  # Files of Chinese documents, or patterns
    en: list[Path]  # Files of English documents, or patterns
    sft: list[Path]  # Files of instructions with their answers, or patterns
    preferences: list[Path] = dataclasses.field(default_factory=list)
    """Files of answers, ordered by preference, for the reward model."""
    evaluation_set: Path | None = None  # Held-out questions with their answers, for the rounds of rejection sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the project's configs begin with; each is one number in a file that may be changed."""

    vocab_size: Count | None = None
    """Entries of the extended tokenizer."""
    pad_to_multiple_of: Count = 512  # The vocabulary gets rows of zeros up to a multiple of this
    seq_len: Annotated[int, Range(2, 2**24)] | None = None
    """Tokens in a row."""
    global_batch_size: Count = 64  # Sequences in a step, over all devices
    device: Literal["tpu", "gpu", "cpu"] = "tpu"  # What the runs are computed on


SIZES = Sizes()


def new(
    name: Annotated[OnDisk, "positional"],
    material: Annotated[Material, FLAT],
    sizes: Annotated[Sizes, FLAT] = SIZES,
    json: Path | None = None,
) -> None:
    """Writes a project: a folder with tigerjax.toml, the configs of the runs, mixture and README.

    The first records of every file are read before anything is written, and a small Chinese text is tried: it may not
    have enough pieces for a large vocabulary.
    The model's sizes are read from the config.json of --base. In the folder all commands of the recipe are short: they
    take their files from tigerjax.toml. NAME/README.md lists them in order.

    Example: tigerjax new mymodel --base Llama-2-7b-hf --zh zh.jsonl --en en.jsonl --sft sft.jsonl
    """
    from tigerjax import records
    from tigerjax.convert import read, vocab_of_folder
    from tigerjax.evaluate import questions
    from tigerjax.model import hf_config
    from tigerjax.tokenizer.added import MODEL_FILE

    if name.exists() and (not name.is_dir() or any(name.iterdir())):
        raise ConfigError(f"{name} exists; give the name of a new folder")
    if not name.name.isidentifier():
        raise ConfigError(f"{name.name!r} names Python modules and mixtures; use letters, digits and _")
    opened, tokenizer = vocab_of_folder.fitted(read.open_hf(material.base), None)
    if tokenizer is not None and tokenizer.is_json:
        raise ConfigError(
            f"{material.base} has a tokenizer.json, but a project begins from a {MODEL_FILE} (Llama 2, TigerBot); write"
            " the configs by hand, as docs/HUGGING_FACE.md shows, or give another base"
        )
    if tokenizer is None:
        raise ConfigError(
            f"{material.base} has no {MODEL_FILE}, which the new vocabulary extends; put the model's there"
        )
    files: dict[str, list[Path]] = {part: records.expand(getattr(material, part)) for part in ("zh", "en", "sft")}
    records.distinct_names([path for part in files.values() for path in part])
    starter_checks.first_records({**files, "preferences": records.expand(material.preferences)})
    if material.evaluation_set is not None:
        questions.load(material.evaluation_set)
    vocab_size, pieces = starter_checks.vocabulary(
        files["zh"], sizes.vocab_size, opened.config.vocab_size, material.base
    )
    if sizes.vocab_size is None and vocab_size < starter_checks.WANTED:
        tell(
            f"note: vocabulary of {vocab_size:,} entries, and not TigerBot's {starter_checks.WANTED:,}: the Chinese"
            f" text has some {pieces:,} pieces"
        )
    sizes = dataclasses.replace(sizes, vocab_size=vocab_size)
    multiple = sizes.pad_to_multiple_of
    padded = math.ceil(vocab_size / multiple) * multiple
    model = dataclasses.replace(opened.config, vocab_size=vocab_size, padded_vocab_size=padded)
    trained = hf_config.reach(model, opened.extra, [])  # 0: not known
    starter_checks.say_long(sizes.seq_len, model, trained, material.base)
    names = {part: [records.output_name(path) for path in paths_of] for part, paths_of in files.items()}
    toml = _toml(name, material, files, names, pieces, sizes)
    written = {
        "tigerjax.toml": toml,
        "mixture.py": _mixture(name.name, names),
        "pretrain.py": _pretrain(name, model, sizes.seq_len or min(LONGEST, trained or LONGEST), sizes, material.base),
        "sft.py": starter_files.SFT.format(name=name.name),
        "reward.py": starter_files.REWARD,
        "README.md": _readme(name.name, toml),
    }
    _refuse_unusable(written["pretrain.py"])
    name.mkdir(parents=True, exist_ok=True)
    for file, text in written.items():
        (name / file).write_text(text, encoding="utf-8")
    show(f"wrote {name}/: {', '.join(written)}")
    save({"folder": str(name), "files": list(written), "vocab_size": vocab_size, "padded_vocab_size": padded}, json)


def from_here(folder: Path, path: Path) -> str:
    """A path as the project's files write it: relative paths from inside the project's folder."""
    if paths.on_bucket(path) or path.is_absolute():
        return str(path)
    return os.path.relpath(path, folder)


def _toml(
    folder: Path,
    material: Material,
    files: dict[str, list[Path]],
    names: dict[str, list[str]],
    pieces: int,
    sizes: Sizes,
) -> str:
    def given(values: Sequence[Path]) -> str:
        return json_lib.dumps([from_here(folder, path) for path in values], ensure_ascii=False)

    def made(stage: str, *parts: str) -> str:
        return json_lib.dumps([f"runs/{stage}/{n}" for part in parts for n in names[part]], ensure_ascii=False)

    base = from_here(folder, material.base)
    text = starter_files.TOML.format(
        raw=given([path for part in ("zh", "en", "sft") for path in files[part]]),
        docs=made("clean", "zh", "en"),
        sft=made("clean", "sft"),
        zh=made("text", "zh"),
        texts=made("text", "zh", "en"),
        import_base=json_lib.dumps(shlex.join(["convert", "from-hf", base, "runs/base"]), ensure_ascii=False),
        base_model=json_lib.dumps(f"{base}/tokenizer.model", ensure_ascii=False),
        pieces=pieces,
        vocab_size=sizes.vocab_size,
        multiple=sizes.pad_to_multiple_of,
    )
    if material.preferences:
        text += starter_files.REWARD_TOML.format(preferences=given(material.preferences), sft=made("clean", "sft"))
    if material.preferences and material.evaluation_set:
        asked = given([material.evaluation_set])[1:-1]
        text += starter_files.ALIGN_TOML.format(sft=made("clean", "sft"), evaluation_set=asked)
    return text + starter_files.EXPORT_TOML


def _mixture(name: str, names: dict[str, list[str]]) -> str:
    def sources(part: str) -> str:
        keys = [n.removesuffix(".zst").removesuffix(".jsonl") for n in names[part]]
        return "".join(
            f"        {key!r}: Source({f'runs/text/{n}'!r}),\n" for key, n in zip(keys, names[part], strict=True)
        )

    examples = ", ".join(repr(f"runs/clean/{n}") for n in names["sft"])
    return starter_files.MIXTURE.format(name=name, zh=sources("zh"), en=sources("en"), examples=examples)


def _pretrain(name: Path, model: ModelConfig, seq_len: int, sizes: Sizes, base: Path) -> str:
    fields = "".join(
        f"            {f.name}={getattr(model, f.name)!r},\n"
        for f in dataclasses.fields(model)
        if f.name in stored_sizes(model)
    )
    return starter_files.PRETRAIN.format(
        name=name.name,
        base=from_here(name, base),
        fields=fields,
        rope="RopeConfig, " if "rope" in stored_sizes(model) else "",
        seq_len=seq_len,
        global_batch_size=sizes.global_batch_size,
        compute=COMPUTE[sizes.device],
    )


def _refuse_unusable(pretrain: str) -> None:
    """ConfigError for a pretrain.py whose config no run would take, such as rows that its kernels cannot cut."""
    module: dict[str, Any] = {}
    exec(pretrain, module)
    try:
        module["config"]()
    except ConfigError as error:
        raise ConfigError(f"{error} (--seq-len, --global-batch-size and --device set these)") from error


def _readme(name: str, toml: str) -> str:
    tables = project.parsed(toml, starter_files.STEPS)
    steps = [f"$ tigerjax {project.shortest(tables, table)}" for table in tables]
    align = starter_files.ALIGN_README if "$ tigerjax align run" in steps else ""
    return starter_files.README.format(name=name, steps="\n".join(steps), align=align)
