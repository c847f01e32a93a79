"""The prompts of a run, and the loader that says which of them each roll-out answers."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tigerjax import records
from tigerjax.align.prompts import as_prompt, prompt_key
from tigerjax.config import GrpoConfig, RlConfig, RunConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest
from tigerjax.files.foreign import shown
from tigerjax.processes import hosts
from tigerjax.sample import encoding
from tigerjax.sample.encoding import Prompt


def read(run: RunConfig, settings: RlConfig, tokenizer: Any) -> tuple[list[Prompt], dict[str, Any]]:
    """(the prompts of `settings.prompts`, encoded; {in, out, dropped}), with a line on what is left out.

    Left out are prompts whose conversation was there before, and those that leave less than `max_new_tokens` of a row.
    Raises DataError when these are more than the share `data.max_dropped`, or none is left.
    """
    given = [
        (f"{path}: prompt {number}", prompt)
        for path in records.expand(settings.prompts)
        for number, prompt in enumerate(_of_file(path), 1)
    ]
    seen: set[str] = set()
    places: dict[str, str] = {}
    distinct = []
    for place, prompt in given:
        messages = prompt.get("messages") or [{"role": "user", "content": prompt.get("text")}]
        if (key := prompt_key(messages)) in seen:
            continue
        seen.add(key)
        identity = prompt.get("prompt_id")
        if not isinstance(identity, str) or not identity:
            raise DataError(f"{place} has prompt_id {shown(identity)}; give every prompt a non-empty string")
        if (before := places.setdefault(identity, place)) != place:
            raise DataError(f"{place} repeats prompt_id {identity!r} of {before}; ids must be unique")
        distinct.append(prompt)
    room = run.data.seq_len - settings.max_new_tokens
    encoded = encoding.encode(tokenizer, distinct, True)
    out = [prompt for prompt in encoded if len(prompt.ids) <= room]
    long = len(encoded) - len(out)
    dropped = {name: n for name, n in (("repeated", len(given) - len(distinct)), ("overlong", long)) if n}
    if not out or long > run.data.max_dropped * len(encoded):
        raise DataError(
            f"objective.prompts: {long} of {len(encoded)} prompts leave less than"
            f" max_new_tokens={settings.max_new_tokens} of data.seq_len={run.data.seq_len}, more than"
            f" data.max_dropped={run.data.max_dropped}; raise data.seq_len or lower max_new_tokens"
        )
    if dropped:
        left_out = ", ".join(f"{n} {reason}" for reason, n in dropped.items())
        hosts.say(f"tigerjax: note: objective.prompts: of {len(given)} prompts {left_out} are left out")
    return out, {"in": len(given), "out": len(out), "dropped": dropped}


def _of_file(path: Any) -> list[dict[str, Any]]:
    """The prompts of one file: of records that end with an answer, all but that answer."""
    first = next((record for _, record in records.read(path)), {})
    last = (first.get("messages") or [{}])[-1]
    if "prompt_id" in first and not (isinstance(last, dict) and last.get("role") == "assistant"):
        return [record for _, record in records.read(path)]
    return [as_prompt(example) for example in records.sft_examples(path)]


SIZES = (
    "objective.prompts_per_rollout", "objective.answers", "objective.epochs", "objective.draws", "global_batch_size",
)  # fmt: skip
"""What a roll-out's place in the prompts depends on, in the order in which checkpoints have it."""


class PromptLoader:
    """A loader for tigerjax.train.loop. Its batches are empty: they are filled from roll-outs before each step.

    It counts the batches, from which the roll-out and the place in it follow. An epoch has every prompt at most once,
    in its own seeded order. The prompts at its end that do not make up a roll-out are in none.
    """

    def __init__(self, prompts: Sequence[Prompt], run: RunConfig, settings: RlConfig, tokenizer_sha256: str):
        """ConfigError where a roll-out would have a prompt twice, or does not split into batches."""
        size = settings.prompts_per_rollout
        draws = settings.draws if isinstance(settings, GrpoConfig) else 1
        if settings.rows % run.global_batch_size:
            raise ConfigError(
                f"a roll-out has objective.prompts_per_rollout={size} x objective.answers={settings.answers} ="
                f" {settings.rows} rows, which do not split into batches of global_batch_size={run.global_batch_size};"
                " change one"
            )
        if size * draws > len(prompts):
            raise ConfigError(
                f"a roll-out may ask objective.prompts_per_rollout={size} x draws={draws} prompts, and there are"
                f" {len(prompts)}; give more prompts, or lower one"
            )
        self.tokenizer_sha256 = tokenizer_sha256
        self.steps_per_rollout = settings.epochs * settings.rows // run.global_batch_size
        self._prompts, self._seed, self._draws, self._size = list(prompts), run.seed, draws, size
        self._per_epoch = len(prompts) // (size * draws)
        shape = [size, settings.answers, settings.epochs, draws, run.global_batch_size]
        sha256 = hashlib.sha256(manifest.canonical([[p.prompt["prompt_id"], p.ids] for p in prompts])).hexdigest()
        self._is: dict[str, Any] = {"seed": run.seed, "prompts_sha256": sha256, "rollout": shape}
        self._taken = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        self._taken += 1
        return {}

    def state(self) -> dict[str, Any]:
        """The position, with what it depends on: `restore` compares these. `rollout` has the SIZES."""
        return {"taken": self._taken, **self._is}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the position of `state`; ConfigError when its prompts, seed or roll-outs are others."""
        names = {"seed": ["seed"], "prompts_sha256": ["the hash of objective.prompts"], "rollout": list(SIZES)}
        for name, value in self._is.items():
            several = name == "rollout"
            there: Any = state[name] if several else [state[name]]
            here: Any = value if several else [value]
            if other := [(n, a, b) for n, a, b in zip(names[name], there, here, strict=True) if a != b]:
                changed = ", ".join(f"{n} was {a} and is {b} now" for n, a, b in other)
                raise ConfigError(f"cannot resume exactly: {changed}; give what it was, or another --out")
        self._taken = state["taken"]

    def asked(self, turn: int, draw: int) -> list[Prompt]:
        """The prompts of draw number `draw` of roll-out number `turn`, both from 0."""
        epoch, at = divmod(turn, self._per_epoch)
        order = np.random.Generator(np.random.Philox([self._seed, epoch])).permutation(len(self._prompts))
        start = (at * self._draws + draw) * self._size
        return [self._prompts[place] for place in order[start : start + self._size]]
