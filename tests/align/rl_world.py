"""Runs by rewards in the tiny world of `world`: prompts of letters, and a reward that likes one letter."""

import dataclasses
import json

import world

from tigerjax.align.rl import run as room
from tigerjax.config import GrpoConfig
from tigerjax.train.metrics import Reporting


class Spelling(world.Letters):
    """Letters that can be read back."""

    def decode(self, ids):
        return "".join(world.ALPHABET[i - 3] for i in ids if 3 <= i < self.ins)


TOKENIZER = Spelling()
SILENT = Reporting(progress=False, echo=lambda line: None)
REWARD = f"{__name__}:likes_a"


def likes_a(attempts):
    """The share of the letters that are an a; answers that do not end get less."""
    return [one.text.count("a") / max(len(one.text), 1) - 0.1 * (one.finish != "stop") for one in attempts]


def not_of_p0(attempts):
    """Scores for every prompt but p0."""
    return [None if one.prompt["prompt_id"] == "p0" else 1.0 for one in attempts]


def only_even(attempts):
    """The share of letters that are an a for every second prompt; 1 for the others, whatever the answer is."""
    likes = likes_a(attempts)
    return [
        like if int(one.prompt["prompt_id"][1]) % 2 == 0 else 1.0 for one, like in zip(attempts, likes, strict=True)
    ]


def too_few(attempts):
    return [1.0]


def a_text(attempts):
    return ["good"] * len(attempts)


def silent(attempts):
    return [None] * len(attempts)


def broken(attempts):
    return 1 / 0


def number_as_text(attempts):
    return ["0.5" for _ in attempts]


def all_the_same(attempts):
    return [1.0 for _ in attempts]


def two_lines(attempts):
    raise ValueError("this\nand that")


def ends(attempts):
    raise SystemExit(0)


def not_a_number(attempts):
    return [*[0.5] * (len(attempts) - 1), float("nan")]


def config_of(folder, chat, kind=GrpoConfig, *, steps, every, **settings):
    """A run on eight prompts in roll-outs of four prompts and 16 rows, of which a batch has 8."""
    file = folder / "prompts.jsonl"
    if not file.exists():
        lines = [{"prompt_id": f"p{n}", "text": "ask " + "bcdefghi"[n]} for n in range(8)]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = {"prompts": (str(file),), "rewards": (REWARD,), "prompts_per_rollout": 4, "answers": 4}
    given |= {"max_new_tokens": 6, "decode_rows": 8, "score_batch_size": 8} | settings
    run = world.run_config(steps=steps, every=every, batch_rows=8, seq_len=16)
    return dataclasses.replace(
        run,
        optim=dataclasses.replace(run.optim, peak_lr=2e-2),
        checkpoint=dataclasses.replace(run.checkpoint, init_from=str(chat), keep=9),
        objective=kind(**given),
        log_every_steps=1,
    )


def trained(config, folder):
    return room.train(config, run_dir=folder / "run", tokenizer=TOKENIZER, reporting=SILENT)


def metrics(folder):
    return read(folder / "run" / "metrics.jsonl")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
