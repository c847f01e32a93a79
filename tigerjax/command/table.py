"""The table of commands, and the one command that needs it."""

from pathlib import Path
from typing import Annotated

from tigerjax.command import align, checkpoints, convert, doctor, evaluate, models, plan, shells, starter, text
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


COMMANDS: dict[tuple[str, ...], Command] = {
    ("quickstart",): models.quickstart,
    ("new",): starter.new,
    ("tokenizer", "sample"): text.tokenizer_sample,
    ("tokenizer", "train"): text.tokenizer_train,
    ("tokenizer", "extend"): text.tokenizer_extend,
    ("tokenizer", "verify"): text.tokenizer_verify,
    ("tokenizer", "stats"): text.tokenizer_stats,
    ("data", "clean"): text.data_clean,
    ("data", "dedup", "exact"): text.data_dedup_exact,
    ("data", "dedup", "near"): text.data_dedup_near,
    ("data", "dedup", "against-sft"): text.data_dedup_against_sft,
    ("data", "decontaminate"): text.data_decontaminate,
    ("data", "tfds"): text.data_tfds,
    ("data", "cache"): text.data_cache,
    ("data", "stats"): text.data_stats,
    ("data", "inspect"): text.data_inspect,
    ("train",): models.train,
    ("checkpoint", "ls"): checkpoints.ls,
    ("checkpoint", "verify"): checkpoints.verify,
    ("checkpoint", "rm"): checkpoints.rm,
    ("plan",): plan.plan,
    ("reward", "train"): models.reward_train,
    ("reward", "score"): models.reward_score,
    ("reward", "calibrate"): models.reward_calibrate,
    ("sample",): models.sample,
    ("evaluate", "compare"): evaluate.evaluate_compare,
    ("evaluate",): evaluate.evaluate,
    ("align", "init"): align.init,
    ("align", "set"): align.change,
    ("align", "prompts"): align.prompts,
    ("align", "sample"): align.sample,
    ("align", "score"): align.score,
    ("align", "queue"): align.queue,
    ("align", "import"): align.import_labels,
    ("align", "rank"): align.rank,
    ("align", "mix"): align.mix,
    ("align", "train"): align.train,
    ("align", "gate"): align.gate,
    ("align", "status"): align.status,
    ("align", "run"): align.run,
    ("convert", "from-hf"): convert.from_hf,
    ("convert", "to-hf"): convert.to_hf,
    ("convert", "resize"): convert.resize,
    ("report",): models.report,
    ("doctor",): doctor.doctor,
    ("completion",): completion,
}
