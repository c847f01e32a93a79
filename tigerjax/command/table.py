"""The table of commands, and the one command that needs it."""

from pathlib import Path
from typing import Annotated

from tigerjax.command import (
    align,
    chat,
    checkpoints,
    convert,
    corpus,
    data_plan,
    doctor,
    evaluate,
    models,
    people,
    plan,
    report,
    serve,
    shells,
    starter,
    text,
    tokenizers,
    training,
)
from tigerjax.command.figures import save
from tigerjax.command.options import Command


def completion(shell: Annotated[shells.Shell, "positional"], json: Path | None = None) -> None:
    """Prints a script that makes a shell complete commands, options and their choices.

    Benchmarks are completed too, and the mixtures that Python files here or in data_mixtures/ register. After a config
    file, the fields of the config are completed.

    Put `source <(tigerjax completion bash)` into ~/.bashrc, the same with zsh into ~/.zshrc, or `tigerjax completion
    fish | source` into fish's config.fish.

    Example: tigerjax completion bash
    """
    script = shells.script(shell, COMMANDS)
    print(script, end="")
    save({"shell": shell, "bytes": len(script.encode())}, json)


SECTIONS: dict[str, dict[tuple[str, ...], Command]] = {
    "To begin with": {
        ("quickstart",): models.quickstart,
        ("new",): starter.new,
        ("doctor",): doctor.doctor,
    },
    "1. Texts and instructions": {
        ("data", "clean"): text.data_clean,
        ("data", "language"): corpus.data_language,
        ("data", "quality", "train"): corpus.data_quality_train,
        ("data", "quality", "score"): corpus.data_quality_score,
        ("data", "dedup", "exact"): text.data_dedup_exact,
        ("data", "dedup", "near"): text.data_dedup_near,
        ("data", "dedup", "soft"): corpus.data_dedup_soft,
        ("data", "dedup", "substrings"): corpus.data_dedup_substrings,
        ("data", "dedup", "site-lines"): corpus.data_dedup_site_lines,
        ("data", "dedup", "against-sft"): text.data_dedup_against_sft,
        ("data", "decontaminate"): text.data_decontaminate,
        ("data", "tfds"): text.data_tfds,
        ("data", "plan"): data_plan.data_plan,
    },
    "2. A tokenizer with Chinese pieces": {
        ("tokenizer", "sample"): tokenizers.tokenizer_sample,
        ("tokenizer", "train"): tokenizers.tokenizer_train,
        ("tokenizer", "extend"): tokenizers.tokenizer_extend,
        ("tokenizer", "verify"): tokenizers.tokenizer_verify,
        ("tokenizer", "stats"): tokenizers.tokenizer_stats,
    },
    "3. A model to start from": {
        ("convert", "from-hf"): convert.from_hf,
        ("convert", "resize"): convert.resize,
    },
    "4. Pretraining and SFT": {
        ("data", "cache"): text.data_cache,
        ("data", "stats"): text.data_stats,
        ("data", "inspect"): text.data_inspect,
        ("plan",): plan.plan,
        ("train",): training.train,
        ("checkpoint", "ls"): checkpoints.ls,
        ("checkpoint", "verify"): checkpoints.verify,
        ("checkpoint", "rm"): checkpoints.rm,
    },
    "5. Answers and scores": {
        ("chat",): chat.chat,
        ("serve",): serve.serve,
        ("sample",): models.sample,
        ("reward", "train"): models.reward_train,
        ("reward", "score"): models.reward_score,
        ("reward", "calibrate"): models.reward_calibrate,
    },
    "6. Alignment, in rounds": {
        ("align", "init"): align.init,
        ("align", "run"): align.run,
        ("align", "status"): align.status,
        ("align", "set"): align.change,
        ("align", "prompts"): align.prompts,
        ("align", "sample"): align.sample,
        ("align", "score"): align.score,
        ("align", "queue"): align.queue,
        ("align", "import"): align.import_labels,
        ("align", "people", "status"): people.status,
        ("align", "people", "push"): people.push,
        ("align", "people", "pull"): people.pull,
        ("align", "people", "export"): people.export,
        ("align", "rank"): align.rank,
        ("align", "mix"): align.mix,
        ("align", "train"): align.train,
        ("align", "gate"): align.gate,
    },
    "7. Reinforcement learning": {
        ("rl",): training.rl,
    },
    "8. Evaluation, reports, handing over": {
        ("evaluate",): evaluate.evaluate,
        ("evaluate", "compare"): evaluate.evaluate_compare,
        ("report",): report.report,
        ("convert", "to-hf"): convert.to_hf,
    },
    "For the shell": {
        ("completion",): completion,
    },
}
"""Every command, by task and in the order of the work, as `tigerjax --help` lists them."""
COMMANDS = {words: command for section in SECTIONS.values() for words, command in section.items()}
