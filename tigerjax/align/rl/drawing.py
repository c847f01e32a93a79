"""Draws roll-outs with the weights of the moment, and fills the batches of the run from them.

The random numbers of an answer follow from (seed, number of the roll-out, prompt id, number of the answer), so a run
that is killed and resumed draws the same answers. In the middle of a roll-out it reads the arrays that it left on disk,
since the weights that drew them are gone by then.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tigerjax.align.answers import Answer
from tigerjax.align.rl import advantages, rollout
from tigerjax.align.rl.prompts import PromptLoader
from tigerjax.align.rl.rewards import Rewards
from tigerjax.align.rl.rollout import Answered, Rollout
from tigerjax.config import GrpoConfig, LoraConfig, PpoConfig, RlConfig, RunConfig, WeightsConfig
from tigerjax.data.rows import make_batch
from tigerjax.errors import DataError
from tigerjax.mesh import in_mesh, put, sharding
from tigerjax.model import adapters
from tigerjax.model.reward import VALUE
from tigerjax.processes import hosts
from tigerjax.sample import encoding, engine
from tigerjax.sample.engine import Batching, SamplingConfig
from tigerjax.sample.in_training import in_training
from tigerjax.train.feed import Fed
from tigerjax.train.objective import selection_of, token_log_probs

Interrupted = Callable[[], bool]


class RolloutBatches:
    """Fills the batches of a run from roll-outs: the `Objective.prepare` of reinforcement learning."""

    def __init__(
        self,
        run: RunConfig,
        loader: PromptLoader,
        *,
        run_dir: Path,
        mesh: Mesh,
        tokenizer: Any,
        rewards: Rewards,
        reference: Any = None,
    ):
        """`reference` are the weights of the reference on `mesh`; None where `objective.kl` is 0, and where the run's
        own weights without their adapters are the reference."""
        settings = run.objective
        assert isinstance(settings, RlConfig)
        self._run, self._c, self._loader, self._mesh = run, settings, loader, mesh
        self._run_dir, self._tokenizer, self._rewards, self._reference = run_dir, tokenizer, rewards, reference
        self._selection = selection_of(run)
        self._log_probs = in_mesh(mesh, jax.jit(token_log_probs(run, mesh), out_shardings=sharding(mesh)))
        plain = dataclasses.replace(run, lora=LoraConfig(), weights=WeightsConfig())
        of_reference = jax.jit(token_log_probs(plain, mesh), out_shardings=sharding(mesh))
        self._of_reference = in_mesh(mesh, of_reference) if run.lora.rank else self._log_probs
        self._reasons = encoding.stops(tokenizer, True)
        self._now: tuple[int, Rollout, dict[str, float]] | None = None

    def __call__(self, weights: Any, fed: Fed, interrupted: Interrupted) -> Fed | None:
        """`fed` with its batch. At the beginning of a roll-out it is drawn from `weights`."""
        turn, at = divmod(fed.before["taken"], self._loader.steps_per_rollout)
        if at == 0:
            if (made := self._drawn(weights, turn, interrupted)) is None:
                return None
            self._now = turn, *made
        elif self._now is None or self._now[0] != turn:
            self._now = turn, *rollout.read(self._run_dir, turn)
        _, there, figures = self._now
        size = self._run.global_batch_size
        epoch, place = divmod(at, self._c.rows // size)
        order = np.random.Generator(np.random.Philox([self._run.seed, turn, epoch])).permutation(self._c.rows)
        batch = there.batch(order[place * size : (place + 1) * size])
        on_mesh = jax.tree.map(lambda array: put(array, self._mesh, "batch"), batch)
        tokens = int(np.count_nonzero(batch.rows.segment_ids_BT))
        return fed._replace(batch=on_mesh, tokens=tokens, figures=figures)

    def _drawn(self, weights: Any, turn: int, interrupted: Interrupted) -> tuple[Rollout, dict[str, float]] | None:
        """(roll-out number `turn`, its figures), which are on disk by then; None when it was interrupted."""
        c, every, kept = self._c, list[list[Answered]](), list[list[Answered]]()
        sampled = weights if self._selection is None else self._selection.plain(weights)
        for draw in range(c.draws if isinstance(c, GrpoConfig) else 1):
            groups = self._groups(sampled, turn, draw, interrupted)
            if groups is None:
                return None
            every += groups
            kept += [group for group in groups if self._says_something(group)]
            if len(kept) >= c.prompts_per_rollout:
                break
        del sampled  # with adapters it is a copy
        answers = [one for group in kept[: c.prompts_per_rollout] for one in group if np.isfinite(one.reward)]
        figures = _figures(every, kept, c)
        if not answers:
            hosts.say(
                f"tigerjax: note: roll-out {turn}: the rewards tell no answer from the others to its prompt, in any of"
                f" {len(every)} groups (objective.min_spread), so its steps train nothing"
            )
        rows_R3T, sampler_RT = rollout.to_rows(answers, rows=c.rows, length=self._run.data.seq_len)
        found = self._computed(weights, rows_R3T, interrupted)
        if found is None:
            return None
        old_RT, value_RT, reference_RT = found
        mask_RT = rollout.next_is_answer(rows_R3T)
        correction_RT, mismatch = self._against_sampler(old_RT, sampler_RT, mask_RT)
        figures |= mismatch
        reward_R = np.array([*(one.reward for one in answers), *[0.0] * (c.rows - len(answers))])
        return_RT = None
        if isinstance(c, PpoConfig):
            assert value_RT is not None
            advantage_RT, return_RT = advantages.of_tokens(
                reward_R, value_RT, mask_RT, discount=c.discount, trace=c.trace
            )
            figures |= _explained(value_RT, return_RT, mask_RT)
            if c.normalise:
                advantage_RT = advantages.normalised(advantage_RT, mask_RT)
        else:
            advantage_RT = _by_group(kept[: c.prompts_per_rollout], c)[: c.rows, None] * mask_RT
        made = Rollout(rows_R3T, sampler_RT, old_RT, correction_RT, _float32(advantage_RT), reference_RT)
        made = made._replace(value_RT=value_RT, return_RT=None if return_RT is None else _float32(return_RT))
        if hosts.is_writer():
            rollout.write(self._run_dir, turn, made, figures)
            rollout.write_for_people(self._run_dir, turn, *self._told(every, answers, made))
            rollout.remove_old(self._run_dir, turn, self._loader.steps_per_rollout)
        hosts.barrier("roll-out written")
        return made, figures

    def _groups(self, weights: Any, turn: int, draw: int, interrupted: Interrupted) -> list[list[Answered]] | None:
        """The scored answers to the prompts of a draw, by prompt."""
        c, asked = self._c, self._loader.asked(turn, draw)
        model = in_training(self._run, weights, self._mesh, self._tokenizer)
        batching = Batching(rows=c.decode_rows).for_mesh(model.mesh)
        sampling = SamplingConfig(
            n=c.answers,
            temperature=1.0,
            top_p=1.0,
            max_new_tokens=c.max_new_tokens,
            context=self._run.data.seq_len,
            seed=self._run.seed,
            round=turn,
        )
        drawn: dict[str, list[encoding.Drawn]] = {}
        stats = engine.Stats()
        for prompt, candidates in engine.answers(model, asked, sampling, batching=batching, stats=stats):
            hosts.at(f"drawing roll-out {turn}, {len(drawn)} of {len(asked)} prompts are answered")
            drawn[prompt.prompt["prompt_id"]] = candidates
            if interrupted():
                return None
        if stats.put_back:
            hosts.say(
                f"tigerjax: note: roll-out {turn}: the cache had no room for {stats.put_back} answers for a while, and"
                " they were drawn again; more compute.cache_tokens are faster"
            )
        attempts, pairs = [], []
        for prompt in asked:
            for one in drawn[prompt.prompt["prompt_id"]]:
                if not np.isfinite(one.logprob):
                    raise DataError(
                        f"prompt {prompt.prompt['prompt_id']!r}: log-probability {one.logprob}; the model gives NaN or"
                        " inf, so lower optim.peak_lr and resume from an older checkpoint"
                    )
                text, finish = self._tokenizer.decode(one.ids), self._reasons.get(one.stop, "length")
                attempts.append(Answer(prompt.messages, text, finish, prompt.prompt))
                pairs.append((prompt, one))
        total, scores = self._rewards(attempts)
        if not np.isfinite(total).any():
            raise DataError(
                f"objective.rewards: none of {len(total)} answers got a finite score; correct the reward, or leave out"
                " what it cannot score"
            )
        answered = [
            Answered(*pair, one.text, one.finish, float(reward), each.tolist())
            for pair, one, reward, each in zip(pairs, attempts, total, scores, strict=True)
        ]
        return [answered[start : start + c.answers] for start in range(0, len(answered), c.answers)]

    def _says_something(self, group: Sequence[Answered]) -> bool:
        """Whether the rewards of a group lie far enough apart to be compared."""
        if not isinstance(self._c, GrpoConfig) or self._c.min_spread is None:
            return True
        return bool(advantages.spread(np.array([[one.reward for one in group]]))[0] > self._c.min_spread)

    def _computed(
        self, weights: Any, rows_R3T: np.ndarray, interrupted: Interrupted
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None] | None:
        """(log pi_old, values, log pi_ref) of all rows, a micro-batch at a time: that many fit into memory."""
        reference = self._reference
        if self._c.kl and reference is None:
            reference = adapters.without(weights, self._run.lora)
        size = self._run.global_batch_size // self._run.optim.gradient_accumulation_steps
        mask_RT = rollout.next_is_answer(rows_R3T)
        old_RT, reference_RT, value_RT = (np.zeros(mask_RT.shape, np.float32) for _ in range(3))
        for start in range(0, len(rows_R3T), size):
            part = slice(start, start + size)
            if not mask_RT[part].any():
                continue
            if interrupted():
                return None
            hosts.at(f"computing log-probabilities of a roll-out, from row {start} of {len(rows_R3T)}")
            rows = jax.tree.map(lambda array: put(array, self._mesh, "batch"), make_batch(rows_R3T[part]))
            logp_BT, value_BT = self._log_probs(weights, rows)
            old_RT[part] = np.asarray(logp_BT)
            if value_BT is not None:
                value_RT[part] = np.asarray(value_BT)
            if reference is not None:
                reference_RT[part] = np.asarray(self._of_reference(reference, rows)[0])
        for array_RT in (old_RT, reference_RT, value_RT):
            array_RT *= mask_RT
        return old_RT, value_RT if VALUE in weights else None, reference_RT if reference is not None else None

    def _against_sampler(
        self, old_RT: np.ndarray, sampler_RT: np.ndarray, mask_RT: np.ndarray
    ) -> tuple[np.ndarray, dict[str, float]]:
        """(the correction of the loss, how far the sampler's log-probabilities are from the trainer's).

        The effective share is (sum w)^2 / (n sum w^2) of the n tokens' weights w = pi_old / pi_sampler (Kong 1992)."""
        c, there, away_RT = self._c, mask_RT > 0, (old_RT - sampler_RT) * mask_RT
        away, ratio = np.abs(away_RT[there].astype(np.float64)), np.exp(away_RT[there].astype(np.float64))
        figures = {"mismatch_mean_nats": 0.0, "mismatch_max_nats": 0.0, "effective_share": 1.0, "entropy_nats": 0.0}
        if len(away):
            figures = {
                "mismatch_mean_nats": float(away.mean()),
                "mismatch_max_nats": float(away.max()),
                "effective_share": float(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum())),
                "entropy_nats": float(-old_RT[there].mean(dtype=np.float64)),
            }
        if c.sampler_cap is None:
            return mask_RT, figures
        if isinstance(c, GrpoConfig) and c.ratio == "sequence":
            length_R1 = np.maximum(mask_RT.sum(axis=1, keepdims=True), 1)
            away_RT = np.broadcast_to(away_RT.sum(axis=1, keepdims=True) / length_R1, away_RT.shape)
        return _float32(np.minimum(np.exp(away_RT), c.sampler_cap) * mask_RT), figures

    def _told(
        self, every: Sequence[Sequence[Answered]], answers: Sequence[Answered], made: Rollout
    ) -> tuple[list[Answered], list[float]]:
        """(all answers, the mean advantage of each), NaN for those that are not in the loss."""
        tokens_R = np.maximum(made.mask_RT.sum(axis=1), 1)
        mean_R = made.advantage_RT.sum(axis=1) / tokens_R
        by_answer = {id(one): float(mean) for one, mean in zip(answers, mean_R, strict=False)}
        drawn = [one for group in every for one in group]
        return drawn, [by_answer.get(id(one), float("nan")) for one in drawn]


def _by_group(groups: Sequence[Sequence[Answered]], c: RlConfig) -> np.ndarray:
    """The advantage of each answer that has a reward, in order, then zeros up to the rows of a roll-out."""
    assert isinstance(c, GrpoConfig)
    out_R, at = np.zeros(c.rows), 0
    for group in groups:
        reward_G = np.array([one.reward for one in group])
        found_G = advantages.of_groups(reward_G[None], divide_by_std=c.divide_by_std)[0][np.isfinite(reward_G)]
        out_R[at : at + len(found_G)] = found_G
        at += len(found_G)
    return out_R


def _figures(every: Sequence[Sequence[Answered]], kept: Sequence[Sequence[Answered]], c: RlConfig) -> dict[str, float]:
    """The figures of a roll-out, over all answers that were drawn."""
    answers = [one for group in every for one in group]
    reward_R = np.array([one.reward for one in answers])
    there_R = np.isfinite(reward_R)
    figures = {
        "reward": float(reward_R[there_R].mean()),
        "reward_std": float(reward_R[there_R].std()),
        "answer_tokens": float(np.mean([len(one.drawn.logprobs) for one in answers])),
        "cut_share": float(np.mean([one.finish == "length" for one in answers])),
        "distinct_share": float(np.mean([len({one.text for one in group}) / len(group) for group in every])),
        "unscored": float((~there_R).sum()),
    }
    if isinstance(c, GrpoConfig):
        figures |= {"groups": float(len(every)), "alike_groups": float(len(every) - len(kept))}
    if len(c.rewards) > 1:
        scores = np.array([one.scores for one in answers])
        figures |= {f"reward_{n + 1}": float(np.nanmean(scores[:, n])) for n in range(scores.shape[1])}
    return figures


def _explained(value_RT: np.ndarray, return_RT: np.ndarray, mask_RT: np.ndarray) -> dict[str, float]:
    """The share of the variance of the returns that the values explain; 0 where all returns are the same."""
    returns, values = return_RT[mask_RT > 0], value_RT[mask_RT > 0]
    spread = float(np.var(returns)) if len(returns) else 0.0
    return {"value_explained": 1 - float(np.var(returns - values)) / spread if spread > 0 else 0.0}


def _float32(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.float32)
