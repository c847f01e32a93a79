"""The command that usually follows another one, for people who work without a project file."""

import shlex
from collections.abc import Mapping
from typing import Any

NEXT: Mapping[tuple[str, ...], str] = {
    ("quickstart",): "tigerjax sample {out}/rounds/01/train/run --prompts FILE --out DIR",
    ("tokenizer", "sample"): "tigerjax tokenizer train --input {out} --vocab-size N --out DIR",
    ("tokenizer", "train"): "tigerjax tokenizer extend --base BASE --new {out} --vocab-size N --out DIR",
    ("tokenizer", "extend"): "tigerjax tokenizer verify {out} --base {base} --text FILE",
    ("tokenizer", "verify"): "tigerjax convert from-hf HF_DIR DIR --tokenizer {folder}",
    ("data", "clean"): "tigerjax data dedup exact --input {out} --out DIR",
    ("data", "dedup", "exact"): "tigerjax data dedup near --input {out} --out DIR",
    ("data", "dedup", "near"): "tigerjax data dedup against-sft --docs {out} --sft FILE --out DIR",
    ("data", "dedup", "against-sft"): "tigerjax data decontaminate --docs {out} --evaluation-sets FILE --out DIR",
    ("data", "decontaminate"): "tigerjax tokenizer sample --input {out} --out DIR",
    ("data", "cache"): "tigerjax train CONFIG",
    ("convert", "from-hf"): "tigerjax train CONFIG --checkpoint.init-from {out}",
    ("convert", "resize"): "tigerjax train CONFIG --checkpoint.init-from {out}",
    ("train",): "tigerjax sample {run} --prompts FILE --out DIR",
    ("sample",): "tigerjax reward score CONFIG --input {out} --out DIR",
    ("reward", "train"): "tigerjax align init CONFIG --reward-model {run}/model --out DIR",
    ("align", "init"): "tigerjax align run {out} --rounds 1",
    ("align", "set"): "tigerjax align status {dir}",
    ("align", "prompts"): "tigerjax align sample {dir}",
    ("align", "sample"): "tigerjax align score {dir}",
    ("align", "score"): "tigerjax align queue {dir}",
    ("align", "queue"): "tigerjax align import {dir} --labels FILE",
    ("align", "import"): "tigerjax align rank {dir}",
    ("align", "rank"): "tigerjax align mix {dir}",
    ("align", "mix"): "tigerjax align train {dir}",
    ("align", "train"): "tigerjax align gate {dir}",
    ("align", "gate"): "tigerjax align status {dir}",
    ("align", "run"): "tigerjax report {dir}",
}
"""Words in braces are options of the command that has ended; `run` is the folder of its run. Capital letters are for
the reader to fill in."""


class _Given(dict[str, str]):
    """What is not known is left to the reader."""

    def __missing__(self, name: str) -> str:
        return name.upper()


def after(command: tuple[str, ...], given: Mapping[str, Any]) -> str | None:
    """The command line that usually follows, with the values of `given`; None after a command that ends the work."""
    if (template := NEXT.get(command)) is None:
        return None
    return template.format_map(_Given({name: shlex.quote(str(value)) for name, value in given.items()}))
