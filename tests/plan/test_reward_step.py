"""The step of `tigerjax plan --answers`, before it is compiled."""

from tiny_run import LENGTH, ROWS, tiny_config

from tigerjax.command.plan import _reward_step
from tigerjax.mesh import run_mesh
from tigerjax.model import families


def test_the_step_of_a_reward_model_is_made_and_its_head_counts_as_one_column():
    """It was refused: a model without vocabulary was asked for the FLOPs."""
    run, answers = tiny_config(), 3
    step = _reward_step(answers)(run, run_mesh(run))
    assert step.tokens == ROWS * answers * LENGTH and step.batch.last_BC.shape == (ROWS, answers)
    whole = families.of(run.model).model_flops(run.model, tokens=step.tokens, seq_len=LENGTH)
    assert step.flops == whole - 6 * step.tokens * run.model.model_dim * (run.model.padded_vocab_size - 1)
