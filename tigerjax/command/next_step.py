"""The command that usually follows another one, where no project file says which."""

import shlex
from collections.abc import Mapping
from typing import Any

NEXT: Mapping[tuple[str, ...], str] = {
    ("new",): "cd {name} && tigerjax data clean",
    ("doctor",): "tigerjax new NAME --base HF_DIR --zh FILES --en FILES --sft FILES",
    ("quickstart",): "tigerjax chat {out}",
    ("tokenizer", "sample"): "tigerjax tokenizer train --input {out} --vocab-size N --out DIR",
    ("tokenizer", "train"): "tigerjax tokenizer extend --base BASE --new {out} --vocab-size N --out DIR",
    ("tokenizer", "extend"): "tigerjax tokenizer verify {out} --base {base} --text FILE",
    ("tokenizer", "verify"): "tigerjax convert from-hf HF_DIR DIR --tokenizer {folder}",
    ("tokenizer", "stats"): "tigerjax convert from-hf HF_DIR DIR --tokenizer {folder}",
    ("data", "clean"): "tigerjax data dedup exact --input {out} --out DIR",
    ("data", "dedup", "exact"): "tigerjax data dedup near --input {out} --out DIR",
    ("data", "dedup", "near"): "tigerjax data dedup against-sft --docs {out} --sft FILE --out DIR",
    ("data", "dedup", "soft"): "tigerjax data dedup against-sft --docs {out} --sft FILE --out DIR",
    ("data", "dedup", "substrings"): "tigerjax data dedup against-sft --docs {out} --sft FILE --out DIR",
    ("data", "dedup", "site-lines"): "tigerjax data clean --input {out} --out DIR",
    ("data", "language"): "tigerjax data clean --input {out} --out DIR --on language simplified",
    ("data", "quality", "train"): "tigerjax data quality score --input FILE --model {out} --out DIR",
    ("data", "quality", "score"): "tigerjax data dedup near --input {out} --out DIR",
    ("data", "dedup", "against-sft"): "tigerjax data decontaminate --docs {out} --evaluation-sets FILE --out DIR",
    ("data", "decontaminate"): "tigerjax tokenizer sample --input {out} --out DIR",
    ("data", "tfds"): "tigerjax data stats MIXTURE --modules MODULE --seq-len N",
    ("data", "plan"): "tigerjax data clean --input {input} --out DIR --workers N",
    ("data", "cache"): "tigerjax train CONFIG",
    ("data", "stats"): "tigerjax data inspect {mixture} --modules {modules} --seq-len {seq-len} --out FILE",
    ("data", "inspect"): "tigerjax train CONFIG --data.mixture {mixture}",
    ("plan",): "tigerjax train CONFIG",
    ("convert", "from-hf"): "tigerjax train CONFIG --checkpoint.init-from {out}",
    ("convert", "resize"): "tigerjax train CONFIG --checkpoint.init-from {out}",
    ("train",): "tigerjax sample {run} --prompts FILE --out DIR",
    ("checkpoint", "ls"): "tigerjax checkpoint verify {run}",
    ("checkpoint", "verify"): "tigerjax sample {run} --prompts FILE --out DIR",
    ("checkpoint", "rm"): "tigerjax checkpoint ls {run}",
    ("sample",): "tigerjax reward score CONFIG --input {out}/candidates.jsonl --out DIR",
    ("reward", "train"): "tigerjax align init CONFIG --sft FILES --models DIR --reward {run}/model"
    " --evaluation-set FILE --out DIR",
    ("reward", "score"): "tigerjax align init CONFIG --sft FILES --models DIR --reward DIR --evaluation-set FILE"
    " --out DIR",
    ("reward", "calibrate"): "tigerjax reward score CONFIG --input FILE --out DIR",
    ("align", "init"): "tigerjax align run {out} --rounds 1",
    ("align", "status"): "tigerjax align run {dir} --rounds N",
    ("align", "set"): "tigerjax align status {dir}",
    ("align", "prompts"): "tigerjax align sample {dir}",
    ("align", "sample"): "tigerjax align score {dir}",
    ("align", "score"): "tigerjax align queue {dir}",
    ("align", "queue"): "tigerjax align import {dir} --labels FILE",
    ("align", "import"): "tigerjax align run {dir} --rounds N",
    ("align", "people", "status"): "tigerjax align people pull {dir}",
    ("align", "people", "push"): "tigerjax align people status {dir}",
    ("align", "people", "pull"): "tigerjax align run {dir} --rounds N",
    ("align", "people", "export"): "tigerjax align people status {dir}",
    ("align", "rank"): "tigerjax align mix {dir}",
    ("align", "mix"): "tigerjax align train {dir}",
    ("align", "train"): "tigerjax align gate {dir}",
    ("align", "gate"): "tigerjax align status {dir}",
    ("align", "run"): "tigerjax report {dir}",
    ("rl",): "tigerjax sample {run} --prompts FILE --out DIR",
    ("evaluate",): "tigerjax evaluate compare DIR DIR --out FILE",
    ("evaluate", "compare"): "tigerjax convert to-hf RUN DIR --tokenizer DIR",
    ("report",): "tigerjax evaluate CONFIG --tasks mmlu ceval --data-dir DIR",
}
"""Words in braces are options of the command that has ended; `run` is the folder of its run. Capital letters are for
the reader to fill in."""
LAST: Mapping[tuple[str, ...], str] = {
    ("chat",): "whoever talks decides what comes next",
    ("serve",): "a server ends when nobody needs it any more",
    ("convert", "to-hf"): "its folder leaves tigerjax: the work ends here",
    ("completion",): "the shell reads its script whenever it starts, and nobody reads a line then",
}
"""Commands that no other one follows, and why."""


class _Given(dict[str, str]):
    """What is not known is left to the reader."""

    def __missing__(self, name: str) -> str:
        return name.upper()


def after(command: tuple[str, ...], given: Mapping[str, Any]) -> str | None:
    """The command line that usually follows, with the values of `given`; None after one of LAST."""
    if command in LAST:
        return None
    return NEXT[command].format_map(_Given({name: _quoted(value) for name, value in given.items()}))


def _quoted(value: Any) -> str:
    """As the shell reads it: a list is several words."""
    return shlex.join(map(str, value if isinstance(value, list | tuple) else [value]))
