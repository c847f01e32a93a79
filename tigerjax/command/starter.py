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
from tigerjax.command.starter_checks import VocabularyGrowth
from tigerjax.config import ModelConfig, stored_fields
from tigerjax.config.ranges import Count, Range
from tigerjax.errors import ConfigError
from tigerjax.files import paths
from tigerjax.terminal import show

LONGEST = 4096  # tokens in a row, where the base model reads more
COMPUTE = {
    "tpu": 'attention="splash", remat="save_dots", dtype="bfloat16", loss_chunk_tokens=65536',
    "gpu": 'attention="cudnn", remat="save_dots", dtype="bfloat16", loss_chunk_tokens=16384',
    "cpu": 'attention="reference", remat="none", dtype="float32", loss_chunk_tokens=1024',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Material:
    """The checkpoint and the files that a project starts from."""

    base: Path  # A model in the form of Hugging Face, with its tokenizer
    sft: list[Path]  # Files of instructions with their answers, or patterns
    zh: list[Path] = dataclasses.field(default_factory=list)
    """Files of Chinese documents, or patterns, for pretraining."""
    en: list[Path] = dataclasses.field(default_factory=list)
    """Files of English documents, or patterns, for pretraining."""
    preferences: list[Path] = dataclasses.field(default_factory=list)
    """Files of answers, ordered by preference, for the reward model."""
    evaluation_set: Path | None = None  # Held-out questions with their answers, for the rounds of rejection sampling


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """What the project's configs begin with; each is one number in a file that may be changed."""

    vocab_size: Count | None = None
    """Entries of the extended tokenizer."""
    pad_to_multiple_of: Count = 512  # The extended vocabulary gets rows of zeros up to a multiple of this
    seq_len: Annotated[int, Range(2, 2**24)] | None = None
    """Tokens in a row."""
    global_batch_size: Count = 64  # Sequences in a step, over all devices
    device: Literal["tpu", "gpu", "cpu"] = "tpu"  # What the runs are computed on


SIZES = Sizes()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewProject:
    """What is known of a project before its files are written. Paths are as the files write them."""

    folder: Path
    material: Material
    sizes: Sizes
    files: dict[str, list[Path]]
    """The user's files by what they are: zh, en, sft."""
    names: dict[str, list[str]]
    """What `tigerjax data clean` calls them."""
    model: ModelConfig
    """As the first run trains it."""
    seq_len: int
    base: str
    grown: VocabularyGrowth | None
    by_merges: bool
    """Whether the vocabulary that grows is that of a tokenizer.json."""
    tokenizer: str
    """The folder of the project's tokenizer: the extended one, or the base model's."""

    @property
    def documents(self) -> bool:
        return bool(self.names["zh"] or self.names["en"])

    @property
    def first(self) -> str:
        """The run that starts from the base model."""
        return "pretrain" if self.documents else "sft"

    @property
    def quoted(self) -> str:
        """The tokenizer's folder as Python and TOML write it."""
        return quoted(self.tokenizer)


def new(
    name: Annotated[OnDisk, "positional"],
    material: Annotated[Material, FLAT],
    sizes: Annotated[Sizes, FLAT] = SIZES,
    json: Path | None = None,
) -> None:
    """Writes a project: a folder with tigerjax.toml, the configs of the runs, mixture and README.

    The first records of every file are read before anything is written. The model's sizes are read from the config.json
    of --base. In the folder all commands of the recipe are short: they take their files from tigerjax.toml.
    NAME/README.md lists them in order. Without --zh and --en there is no pretraining.

    The vocabulary of a tokenizer.model grows by Chinese pieces, to TigerBot's 60,515 entries or to --vocab-size. That
    of a tokenizer.json grows with --vocab-size only. A small Chinese text is tried: it may not have enough pieces.

    Example: tigerjax new mymodel --base Llama-2-7b-hf --zh zh.jsonl --en en.jsonl --sft sft.jsonl
    """
    from tigerjax import records
    from tigerjax.convert import read, vocab_of_folder
    from tigerjax.evaluate import questions
    from tigerjax.model import families, hf_config

    if name.exists() and (not name.is_dir() or any(name.iterdir())):
        raise ConfigError(f"{name} exists; give the name of a new folder")
    if not name.name.isidentifier():
        raise ConfigError(f"{name.name!r} names Python modules and mixtures; use letters, digits and _")
    opened, tokenizer = vocab_of_folder.fitted(read.open_hf(material.base), None)
    if families.is_reward(opened.kind):
        raise ConfigError(f"{material.base} is a reward model; a project begins from a language model")
    if tokenizer is None:
        raise ConfigError(
            f"{material.base} has no tokenizer that is read; put the model's tokenizer.json or tokenizer.model there"
        )
    files: dict[str, list[Path]] = {part: records.expand(getattr(material, part)) for part in ("zh", "en", "sft")}
    records.distinct_names([path for part in files.values() for path in part])
    starter_checks.first_records({**files, "preferences": records.expand(material.preferences)})
    if material.evaluation_set is not None:
        questions.load(material.evaluation_set)
    grown = starter_checks.vocabulary(files["zh"], sizes.vocab_size, tokenizer)
    starter_checks.refuse_without_chat(tokenizer, grown)
    model = _grown(opened.config, grown, sizes.pad_to_multiple_of)
    trained = hf_config.reach(model, opened.extra, [])  # 0: not known
    plan = NewProject(
        folder=name,
        material=material,
        sizes=sizes,
        files=files,
        names={part: [records.output_name(path) for path in paths_of] for part, paths_of in files.items()},
        model=model,
        seq_len=sizes.seq_len or min(LONGEST, trained or LONGEST),
        base=from_here(name, material.base),
        grown=grown,
        by_merges=tokenizer.is_json,
        tokenizer=from_here(name, tokenizer.folder) if grown is None else "tokenizer",
    )
    starter_checks.say_long(sizes.seq_len, model, trained, material.base, f"{plan.first}.py")
    toml = _toml(plan)
    written = {"tigerjax.toml": toml, "mixture.py": _mixture(plan), f"{plan.first}.py": _first(plan)}
    if plan.documents:
        written["sft.py"] = starter_files.SFT.format(name=name.name, optim=starter_files.OPTIM["sft"])
    written |= {"reward.py": starter_files.REWARD.format(first=plan.first), "README.md": _readme(plan, toml)}
    _refuse_unusable(written[f"{plan.first}.py"])
    name.mkdir(parents=True, exist_ok=True)
    for file, text in written.items():
        (name / file).write_text(text, encoding="utf-8")
    show(f"wrote {name}/: {', '.join(written)}")
    vocabulary = {"vocab_size": plan.model.vocab_size, "padded_vocab_size": plan.model.padded_vocab_size}
    save({"folder": str(name), "files": list(written)} | vocabulary, json)


def from_here(folder: Path, path: Path) -> str:
    """A path as the project's files write it: relative paths from inside the project's folder."""
    if paths.on_bucket(path) or path.is_absolute():
        return str(path)
    return os.path.relpath(path, folder)


def quoted(value: object) -> str:
    """A text or a list of texts as TOML, JSON and Python write it."""
    return json_lib.dumps(value, ensure_ascii=False)


def _grown(model: ModelConfig, grown: VocabularyGrowth | None, multiple: int) -> ModelConfig:
    """The sizes of the base model with the vocabulary of the project."""
    if grown is None:
        return model
    padded = math.ceil(grown.size / multiple) * multiple
    return dataclasses.replace(model, vocab_size=grown.size, padded_vocab_size=padded)


def _toml(plan: NewProject) -> str:
    material, names = plan.material, plan.names

    def given(values: Sequence[Path]) -> str:
        return quoted([from_here(plan.folder, path) for path in values])

    def made(stage: str, *parts: str) -> str:
        return quoted([f"runs/{stage}/{n}" for part in parts for n in names[part]])

    text = starter_files.CLEAN_TOML.format(raw=given([path for part in plan.files.values() for path in part]))
    if plan.documents:
        text += starter_files.DOCUMENTS_TOML.format(docs=made("clean", "zh", "en"), sft=made("clean", "sft"))
    if plan.grown is not None:
        base = quoted(plan.base if plan.by_merges else f"{plan.base}/tokenizer.model")
        text += starter_files.TOKENIZER_TOML.format(
            why="" if plan.by_merges else starter_files.MORE_PIECES,
            train_base=f"base = {base}\n" if plan.by_merges else "",
            zh=made("text", "zh"),
            train=plan.grown.train,
            base=base,
            size=plan.grown.size,
            texts=made("text", "zh", "en"),
        )
    text += starter_files.IMPORT_TOML.format(
        import_base=quoted(shlex.join(["convert", "from-hf", plan.base, "runs/base"]))
    )
    if plan.grown is not None:
        text += starter_files.GROWN_TOML.format(multiple=plan.sizes.pad_to_multiple_of)
    for run in dict.fromkeys((plan.first, "sft")):
        text += starter_files.TRAIN_TOML.format(run=run)
    if material.preferences:
        text += starter_files.REWARD_TOML.format(preferences=given(material.preferences), sft=made("clean", "sft"))
    if material.preferences and material.evaluation_set:
        asked = given([material.evaluation_set])[1:-1]
        text += starter_files.ALIGN_TOML.format(sft=made("clean", "sft"), evaluation_set=asked)
    return text + starter_files.EXPORT_TOML.format(tokenizer=plan.quoted)


def _mixture(plan: NewProject) -> str:
    def sources(part: str) -> str:
        lines = [
            f"        {n.removesuffix('.zst').removesuffix('.jsonl')!r}: Source({f'runs/text/{n}'!r}),\n"
            for n in plan.names[part]
        ]
        return "".join(["{\n", *lines, "    }"]) if lines else "{}"

    name, documents, what = plan.folder.name, "", starter_files.SFT_ALONE
    if plan.documents:
        only = {lang: not plan.names[other] for lang, other in (("zh", "en"), ("en", "zh"))}
        share = "".join(f"    zh_share={float(lang == 'zh')},\n" for lang, alone in only.items() if alone)
        documents = starter_files.HOLISTIC.format(
            name=name, tokenizer=plan.quoted, zh=sources("zh"), en=sources("en"), share=share
        )
        what = starter_files.SHARES.format(languages="" if share else starter_files.LANGUAGES)
    return starter_files.MIXTURE.format(
        name=name,
        what=what,
        kinds="holistic, sft" if plan.documents else "sft",
        examples=", ".join(repr(f"runs/clean/{n}") for n in plan.names["sft"]),
        documents=documents,
        tokenizer=plan.quoted,
    )


def _first(plan: NewProject) -> str:
    """The config of the run that starts from the base model."""
    sizes, model = stored_fields(plan.model), plan.model
    kind, module = type(model).__name__, type(model).__module__
    own = type(model) is not ModelConfig
    imports = ["CheckpointConfig", "ComputeConfig", "DataConfig", "MeshConfig", "RunConfig"]
    imports += ["RopeConfig"] * ("rope" in sizes) + [kind] * (not own)
    return starter_files.FIRST.format(
        what=starter_files.WHAT[plan.first].format(name=plan.folder.name),
        base=plan.base,
        vocabulary="" if plan.grown is None else ", with the vocabulary of the folder tokenizer",
        mixture=f"{plan.folder.name}_{plan.first}",
        run=plan.first,
        imports=", ".join(sorted(imports)),
        sizes=f"from {module} import {kind}\n" if own else "",
        kind=kind,
        fields="".join(
            f"            {f.name}={getattr(model, f.name)!r},\n" for f in dataclasses.fields(model) if f.name in sizes
        ),
        compute=COMPUTE[plan.sizes.device],
        optim=starter_files.OPTIM[plan.first],
        tokenizer=plan.quoted,
        seq_len=plan.seq_len,
        global_batch_size=plan.sizes.global_batch_size,
    )


def _refuse_unusable(first: str) -> None:
    """ConfigError for a first config that no run would take, such as rows that its kernels cannot cut."""
    module: dict[str, Any] = {}
    exec(first, module)
    try:
        module["config"]()
    except ConfigError as error:
        raise ConfigError(f"{error} (--seq-len, --global-batch-size and --device set these)") from error


def _readme(plan: NewProject, toml: str) -> str:
    tables = project.parsed(toml, starter_files.STEPS)
    steps = [f"$ tigerjax {project.shortest(tables, table)}" for table in tables]
    align = starter_files.ALIGN_README if "$ tigerjax align run" in steps else ""
    configs = "`sft.py` and `reward.py` are the configs of the runs"
    return starter_files.README.format(
        name=plan.folder.name,
        steps="\n".join(steps),
        align=align,
        configs=f"`pretrain.py`, {configs}" if plan.documents else configs,
        first=plan.first,
    )
