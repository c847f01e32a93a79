"""A project file, and what it adds to a command."""

import shlex

from tigerjax.command import project
from tigerjax.command.table import COMMANDS

TABLES = """
["data clean"]
input = ["zh.jsonl", "en files/*.jsonl"]
out = "clean"
drop_denied = true

["train pretrain.py"]
"optim.peak-lr" = 1e-4

["train sft.py"]

["convert to-hf runs/sft hf"]
dtype = "bfloat16"
verify = false
"""


def completed(command: str, typed: str, tables: str = TABLES) -> list[str]:
    words = tuple(command.split())
    return project.complete(project.parsed(tables, COMMANDS), words, COMMANDS[words], shlex.split(typed))
