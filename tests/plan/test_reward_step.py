"""The steps of `tigerjax plan` that are not the token loss, before they are compiled."""

import dataclasses

import flax.linen as nn
import jax
import pytest
from tiny_run import LENGTH, ROWS, tiny_config

from tigerjax.command.plan import _reward_step
from tigerjax.config import DpoConfig, GrpoConfig, KtoConfig, PpoConfig, SimpoConfig
from tigerjax.mesh import run_mesh
from tigerjax.model import families
from tigerjax.plan.compile import train_step


def test_the_step_of_a_reward_model_is_made_and_its_head_counts_as_one_column():
    """It was refused: a model without vocabulary was asked for the FLOPs."""
    run, answers = tiny_config(), 3
    step = _reward_step(answers)(run, run_mesh(run))
    assert step.tokens == ROWS * answers * LENGTH and step.batch.last_BC.shape == (ROWS, answers)
    whole = families.of(run.model).model_flops(run.model, tokens=step.tokens, seq_len=LENGTH)
    assert step.flops == whole - 6 * step.tokens * run.model.model_dim * (run.model.padded_vocab_size - 1)


@pytest.mark.parametrize(("kind", "chats"), [(DpoConfig, 2), (KtoConfig, 3), (SimpoConfig, 2)])
def test_the_step_of_a_loss_over_preferences_has_rows_of_several_chats_and_its_reference(kind, chats):
    run = dataclasses.replace(tiny_config(), objective=kind(preferences=("p",)))
    step = train_step(run, run_mesh(run))
    assert step.tokens == ROWS * chats * LENGTH and step.batch.rows.tokens_BT.shape == (ROWS, chats * LENGTH)
    assert (step.batch.reference_BC is None) == (kind is SimpoConfig)
    weights = jax.eval_shape(lambda key: nn.unbox(step.objective.init(key)), jax.random.key(0))
    total, weight, sums = jax.eval_shape(step.objective.loss, weights, step.batch)
    assert total.shape == weight.shape == () and "reward_margin" in sums


@pytest.mark.parametrize(("kind", "kl"), [(GrpoConfig, 0.1), (PpoConfig, 0.0)])
def test_the_step_of_a_loss_over_answers_has_one_answer_in_a_row_and_what_its_loss_reads(kind, kl):
    run = dataclasses.replace(tiny_config(), objective=kind(prompts=("p",), rewards=("r",), kl=kl))
    step = train_step(run, run_mesh(run))
    assert step.tokens == ROWS * LENGTH and step.batch.old_BT.shape == (ROWS, LENGTH)
    assert (step.batch.reference_BT is None) == (kl == 0) and (step.batch.value_BT is None) == (kind is GrpoConfig)
    weights = jax.eval_shape(lambda key: nn.unbox(step.objective.init(key)), jax.random.key(0))
    total, weight, sums = jax.eval_shape(step.objective.loss, weights, step.batch)
    assert total.shape == weight.shape == () and "clip_share" in sums and ("value" in weights) == (kind is PpoConfig)
