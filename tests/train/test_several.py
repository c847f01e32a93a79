"""Two real processes with two fake CPU devices each, on loopback (gloo): they train as one, and end as one."""

import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from child_processes import Ended, run
from held_rows import held_out
from several import SLOW_AFTER, SLOW_LEAST_S, validated_config
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint.files import check_bytes, read_meta, steps
from tigerjax.checkpoint.model import load_model
from tigerjax.config import MeshConfig
from tigerjax.mesh import host_rows, make_mesh, mesh_of_several, row_ways, run_mesh
from tigerjax.train.held_out import HeldOut, flat
from tigerjax.train.loop import train

SAME_LOSS = 1e-6  # nats: gloo adds four float32 numbers in another order than one process does


def pair(scenario: str, folder: Path, *steps: int, processes: int = 2) -> Ended:
    """Runs a scenario of several.py to its end."""
    log = folder.parent / f"{folder.name}.{scenario}"
    return run([Path(__file__).with_name("several.py"), scenario, folder, *steps], log, processes)


def records(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder: Path) -> list[float]:
    return [record["loss_nats"] for record in records(folder)]


def assert_same_validations(folder: Path, alone: Path) -> None:
    """The same figures at the same steps, once each."""
    found, wanted = (
        [(r["step"], flat(r["validation"])) for r in records(f) if "validation" in r] for f in (folder, alone)
    )
    assert [step for step, _ in found] == [step for step, _ in wanted] == [4, 8]
    for (_, ours), (_, theirs) in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=SAME_LOSS)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The same run in this process, on four of its devices: its folder."""
    folder = tmp_path_factory.mktemp("alone")
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    config = validated_config(total_steps=8, every_steps=4)
    train(config, TinyLoader(), run_dir=folder, mesh=mesh, held_out=HeldOut(held_out()), reporting=SILENT)
    return folder


def test_the_rows_of_a_process_are_those_of_its_devices():
    devices = jax.devices()
    assert host_rows(make_mesh(MeshConfig(fsdp=4, tensor=2), devices), 8) == list(range(8))

    class Part:
        """A mesh whose second half belongs to another process, as far as `host_rows` can see."""

        def addressable_devices_indices_map(self, shape):
            return {"d0": (slice(6, 8),), "d1": (slice(0, 2),), "d2": (slice(6, 8),)}

    import tigerjax.mesh as mesh_lib

    original, mesh_lib.sharding = mesh_lib.sharding, lambda mesh, *axes: Part()
    try:
        assert host_rows(None, 8) == [0, 1, 6, 7]
    finally:
        mesh_lib.sharding = original


def test_devices_that_share_a_row_all_read_it_and_sampling_gives_each_rows_of_its_own():
    config = tiny_config(mesh=MeshConfig(fsdp=4, sequence=2))
    assert host_rows(run_mesh(config), 8) == list(range(8)) and row_ways(run_mesh(config)) == 4
    sampling = mesh_of_several(config.mesh)
    assert (sampling.shape["fsdp"], sampling.shape["sequence"], row_ways(sampling)) == (8, 1, 8)


def test_two_processes_stop_at_bad_data_resume_and_have_the_losses_of_one(alone, tmp_path):
    """Host 1 meets a broken line while step 7 is read; the line is mended, and the run goes on from step 4."""
    folder = tmp_path / "run"
    ended = pair("bad-data", folder)
    assert ended.codes == [3, 3]
    for said in ended.errors:
        assert (
            said.splitlines()[-1] == "tigerjax: host 1 of 2: corpus.jsonl:17: broken JSON" and "Traceback" not in said
        )
    assert steps(folder / "checkpoints") == [4]

    ended = pair("whole", folder)
    assert ended.codes == [0, 0], ended.errors
    assert "resuming tiny from step 4" in ended.errors[0] and "resuming" not in ended.errors[1]
    np.testing.assert_allclose(losses(folder), losses(alone), atol=SAME_LOSS)
    assert len(losses(folder)) == 8  # one writer
    assert_same_validations(folder, alone)

    # One process reads what two wrote, byte for byte.
    assert steps(folder / "checkpoints") == [8, 4]
    for step in (8, 4):
        path = folder / "checkpoints" / str(step)
        check_bytes(path, read_meta(path), ("weights", "opt_state"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), load_model(folder).weights, load_model(alone).weights
    )


def test_a_killed_host_that_lost_its_disk_gets_its_local_share_from_its_neighbour(tmp_path):
    """Host 1 is killed while step 11 is read, and its local folder removed. No checkpoint is there yet."""
    folder, local = tmp_path / "run", tmp_path / "local"
    ended = pair("local-kill", folder, 12, 11)
    assert all(ended.codes), ended.errors
    before = {record["step"]: record["loss_nats"] for record in records(folder)}
    (of_run,) = local.iterdir()
    here = {save.name: len(list(save.iterdir())) for save in (of_run / "0").iterdir()}
    whole = [int(save.split("-")[0]) for save, files in here.items() if files == 4]  # two shares of two files
    shutil.rmtree(of_run / "1")

    ended = pair("local", folder, 12, 11)
    assert ended.codes == [0, 0], ended.errors
    assert f"step {max(whole)} is taken from the local saves of the hosts" in ended.errors[0], ended.errors
    again = {record["step"]: record["loss_nats"] for record in records(folder)}
    assert list(again) == list(range(1, 13)) and not any(local.iterdir())
    for step, loss in before.items():  # to the bit, where steps were done again
        assert again[step] == loss


def test_a_host_that_reads_slowly_is_named_and_no_other(tmp_path):
    """Batches that were read ahead hide it for a while; then every step waits for host 1."""
    ended = pair("slow", tmp_path / "run", 20, 20)
    assert ended.codes == [0, 0], ended.errors
    assert "slow: host 1 " in ended.errors[0] and "slow" not in ended.errors[1]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steady = records[SLOW_AFTER + 3 : 19]  # the last step reads nothing
    assert [r["slow_hosts"] for r in steady] == [[1]] * 6
    assert min(r["host_busy_s"] for r in steady) > SLOW_LEAST_S / 2


def test_sigterm_on_one_host_stops_both_after_the_same_step_and_the_run_goes_on_in_one_process(alone, tmp_path):
    folder = tmp_path / "run"
    ended = pair("preempt", folder, 8, 8)
    assert ended.codes == [143, 143], ended.errors
    (at,) = steps(folder / "checkpoints")
    assert 0 < at <= 8 and f"SIGTERM: stopped after step {at}/8, checkpoint saved" in ended.errors[0]
    mesh = make_mesh(MeshConfig(fsdp=4), jax.devices()[:4])
    config = validated_config(total_steps=8, every_steps=8)
    train(config, TinyLoader(), run_dir=folder, mesh=mesh, held_out=HeldOut(held_out()), reporting=SILENT)
    np.testing.assert_allclose(losses(folder), losses(alone), atol=SAME_LOSS)
    assert_same_validations(folder, alone)


@pytest.mark.slow
def test_a_killed_host_ends_the_other_and_both_resume(alone, tmp_path):
    folder = tmp_path / "run"
    ended = pair("kill", folder)
    assert ended.codes[1] == -signal.SIGKILL and ended.codes[0] not in (0, None, -signal.SIGKILL)
    assert pair("whole", folder).codes == [0, 0]
    np.testing.assert_allclose(losses(folder), losses(alone), atol=SAME_LOSS)


@pytest.mark.slow
def test_a_stalled_host_is_named_within_the_time_limit(tmp_path):
    ended = pair("stall", tmp_path / "run")
    assert ended.codes == [1, 1]
    for said in ended.errors:
        assert "no step finished for" in said and "host 1: reading batch 7" in said


@pytest.mark.slow
def test_hosts_with_different_configs_are_refused(tmp_path):
    ended = pair("other-config", tmp_path / "run")
    assert ended.codes == [2, 2] and "differs between hosts" in ended.errors[0]


@pytest.mark.slow
def test_four_processes_have_the_losses_of_one(alone, tmp_path):
    assert pair("whole", tmp_path / "run", processes=4).codes == [0] * 4
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), atol=SAME_LOSS)
    assert_same_validations(tmp_path / "run", alone)
