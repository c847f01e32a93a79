"""A run goes on with the copies of the model that are present, and its losses stay those of all copies."""

import contextlib
import dataclasses
import json

import jax
import numpy as np
import pytest
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.config import MeshConfig
from tigerjax.errors import ConfigError
from tigerjax.mesh import make_mesh, mesh_of_several
from tigerjax.train import elastic
from tigerjax.train.loop import train

SAME_LOSS = 2e-6  # nats: the sums of more micro-batches are added in another order


def config(**mesh):
    return tiny_config(mesh=MeshConfig(**{"data": 2, "fsdp": 2, "least_data": 1} | mesh), total_steps=9, every_steps=3)


def losses(folder):
    return [json.loads(line)["loss_nats"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_that_loses_a_copy_and_gets_it_back_has_the_losses_of_an_undisturbed_one(tmp_path, capsys):
    whole = config()
    alone, folder = tmp_path / "alone", tmp_path / "run"
    mesh = make_mesh(whole.mesh, jax.devices()[:4])
    train(whole, TinyLoader(), run_dir=alone, mesh=mesh, reporting=SILENT)
    for devices, crash_at in ((4, 4), (2, 8), (4, None)):
        run = elastic.of_present(whole, devices)
        lost = pytest.raises(RuntimeError, match="gone") if crash_at else contextlib.nullcontext()
        with lost:
            train(
                run,
                TinyLoader(crash_at=crash_at),
                run_dir=folder,
                mesh=make_mesh(run.mesh, jax.devices()[:devices]),
                reporting=dataclasses.replace(SILENT, event=elastic.event(whole, run)),
            )
    np.testing.assert_allclose(losses(folder), losses(alone), atol=SAME_LOSS)
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [(e["step"], e["present"], e["of"], e["micro_batches"]) for e in events] == [
        (0, 2, 2, 1), (3, 1, 2, 2), (6, 2, 2, 1),
    ]  # fmt: skip
    assert "mesh.data = 1" in capsys.readouterr().err


def test_each_copy_computes_as_many_micro_batches_of_the_same_size():
    whole = tiny_config(mesh=MeshConfig(data=4, fsdp=2, least_data=1), accumulate=1)
    assert elastic.of_present(whole, 8) is whole and elastic.whole(whole) == [1, 2, 4]
    half = elastic.of_present(whole, 4)
    assert (half.mesh.data, half.optim.gradient_accumulation_steps, half.global_batch_size) == (2, 2, 8)
    of_device = [c.global_batch_size // c.optim.gradient_accumulation_steps // (c.mesh.data * 2) for c in (whole, half)]
    assert of_device == [1, 1]
    assert elastic.event(whole, half) == {"event": "copies", "present": 2, "of": 4, "micro_batches": 2}


@pytest.mark.parametrize(
    "least, devices, said",
    [
        (1, 7, "of which 3 are whole; start on a multiple of 2 devices"),
        (2, 2, "1 are fewer than mesh.least_data=2"),
        (1, 6, "3 cannot share 4 x optim.gradient_accumulation_steps=1 micro-batches equally; start 1 or 2 or 4 of"),
    ],
)
def test_a_start_with_a_number_of_devices_that_cannot_go_on_says_why(least, devices, said):
    whole = tiny_config(mesh=MeshConfig(data=4, fsdp=2, least_data=least))
    with pytest.raises(ConfigError) as error:
        elastic.of_present(whole, devices)
    assert said in str(error.value)


def test_sampling_takes_no_least_data():
    with pytest.raises(ConfigError, match=r"mesh\.least_data=1 is for training"):
        mesh_of_several(MeshConfig(data=2, least_data=1))


def test_a_run_without_least_data_is_refused_as_before():
    whole = config(least_data=None)
    assert elastic.of_present(whole, 2) is whole and elastic.event(whole, whole) is None
    with pytest.raises(ConfigError, match="but 2 are present"):
        make_mesh(whole.mesh, jax.devices()[:2])
    with pytest.raises(ConfigError, match=r"is more than mesh\.data=2"):
        config(least_data=3)
