"""A roll-out as rows: its answers with what the trainer knows of each token, in memory and on disk.

RUN/rollouts/000012.safetensors   the arrays, from which a run resumes in the middle of the roll-out
RUN/rollouts/000012.jsonl         the same for people: prompts, answers, rewards and advantages
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from tigerjax.checkpoint.files import FOLDER, read_meta, steps
from tigerjax.data.rows import make_batch, make_row, row_weights
from tigerjax.errors import DataError
from tigerjax.files import paths
from tigerjax.files.jsonl import write_jsonl
from tigerjax.sample.encoding import Drawn, Prompt
from tigerjax.train.policy_loss import PolicyBatch

ROLLOUTS = "rollouts"
FIGURES = "figures"
"""The name of the JSON of the figures among the arrays of a file."""


class Answered(NamedTuple):
    """One answer to a prompt, with its scores."""

    prompt: Prompt
    drawn: Drawn
    text: str
    finish: str
    reward: float
    """The weighted sum of `scores`; NaN where one of them is."""
    scores: list[float]


class Rollout(NamedTuple):
    """R rows of T tokens, each a prompt and an answer. Arrays of tokens are 0 where there is no token of an answer in
    the loss; position t is about the token after it, as in `PolicyBatch`."""

    rows_R3T: np.ndarray
    sampler_RT: np.ndarray
    """float32 log-probability that the sampler gave, in nats."""
    old_RT: np.ndarray
    """float32 the same by the trainer."""
    correction_RT: np.ndarray
    advantage_RT: np.ndarray
    reference_RT: np.ndarray | None = None
    value_RT: np.ndarray | None = None
    return_RT: np.ndarray | None = None

    @property
    def mask_RT(self) -> np.ndarray:
        """float32 1 where the next token is one of an answer in the loss."""
        return next_is_answer(self.rows_R3T)

    def batch(self, picks: np.ndarray) -> PolicyBatch:
        """The rows `picks` as the loss reads them, numpy arrays."""
        arrays = self[2:]
        return PolicyBatch(make_batch(self.rows_R3T[picks]), *(None if a is None else a[picks] for a in arrays))


def to_rows(answers: Sequence[Answered], *, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows_R3T, sampler_RT) of `rows` rows of `length` tokens: the answers in their order, then padding."""
    rows_R3T, sampler_RT = np.zeros((rows, 3, length), np.int32), np.zeros((rows, length), np.float32)
    for row, one in enumerate(answers):
        drawn = [*one.drawn.ids, *([one.drawn.stop] if one.drawn.stop >= 0 else [])]
        start, end = len(one.prompt.ids), len(one.prompt.ids) + len(drawn)
        tokens, segments, losses = (np.zeros(length, kind) for kind in (np.int32, np.int32, np.float32))
        tokens[:end], segments[:end], losses[start:end] = [*one.prompt.ids, *drawn], 1, 1.0
        rows_R3T[row] = make_row(tokens, segments, losses)
        sampler_RT[row, start - 1 : end - 1] = one.drawn.logprobs
    return rows_R3T, sampler_RT


def next_is_answer(rows_R3T: np.ndarray) -> np.ndarray:
    """mask_RT float32 of rows: 1 where the next token has a loss weight."""
    mask_RT = np.zeros(rows_R3T[:, 0].shape, np.float32)
    mask_RT[:, :-1] = row_weights(rows_R3T)[:, 1:] > 0
    return mask_RT


def place(run_dir: Path, turn: int) -> Path:
    """The file of roll-out number `turn`."""
    return run_dir / ROLLOUTS / f"{turn:06d}.safetensors"


def write(run_dir: Path, turn: int, rollout: Rollout, figures: Mapping[str, float]) -> None:
    """Writes the arrays of a roll-out, whole or not at all."""
    arrays = {name: array for name, array in rollout._asdict().items() if array is not None}
    arrays[FIGURES] = np.frombuffer(json.dumps(figures).encode(), np.uint8)
    path = place(run_dir, turn)
    path.parent.mkdir(parents=True, exist_ok=True)
    with paths.writing(path) as file:
        file.write(save(arrays))


def read(run_dir: Path, turn: int) -> tuple[Rollout, dict[str, float]]:
    """(roll-out number `turn`, its figures), as `write` left them. DataError where the file is lost or damaged."""
    path = place(run_dir, turn)
    try:
        arrays = load(path.read_bytes())
        figures = json.loads(arrays.pop(FIGURES).tobytes())
        return Rollout(**arrays), figures
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: the roll-out in whose middle the run resumes cannot be read ({type(error).__name__}); put it"
            " back, or remove the newest checkpoints by `tigerjax checkpoint rm` up to one between two roll-outs"
        ) from error


def write_for_people(run_dir: Path, turn: int, answers: Sequence[Answered], advantage_R: Sequence[float]) -> None:
    """Writes the answers as text, a line for each prompt: {prompt_id, messages, answers: [{text, finish, tokens,
    reward, scores, advantage}]}. What is not in the loss has advantage None."""
    lines: dict[str, dict[str, Any]] = {}
    for one, advantage in zip(answers, advantage_R, strict=True):
        prompt_id = one.prompt.prompt["prompt_id"]
        head = {"prompt_id": prompt_id, "messages": one.prompt.messages, "answers": []}
        lines.setdefault(prompt_id, head)["answers"].append(
            {
                "text": one.text,
                "finish": one.finish,
                "tokens": len(one.drawn.logprobs),
                "reward": _finite(one.reward),
                "scores": [_finite(score) for score in one.scores],
                "advantage": _finite(advantage),
            }
        )
    write_jsonl(place(run_dir, turn).with_suffix(".jsonl"), lines.values())


def remove_old(run_dir: Path, turn: int, steps_per_rollout: int) -> None:
    """Removes the arrays of roll-outs in whose middle no checkpoint stands; those of `turn` and of the one before stay,
    since a checkpoint may just be written there. The files for people stay."""
    needed = {turn, turn - 1}
    for step in steps(run_dir / FOLDER):
        taken = (read_meta(run_dir / FOLDER / str(step))["loader"] or {}).get("taken", 0)
        needed.add(taken // steps_per_rollout)
    for name in paths.names(run_dir / ROLLOUTS):
        stem, _, ending = name.partition(".")
        if ending == "safetensors" and stem.isdigit() and int(stem) not in needed:
            (run_dir / ROLLOUTS / name).unlink(missing_ok=True)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
