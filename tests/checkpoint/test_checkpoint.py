"""Checkpoints: what goes in comes out, on any mesh; damage and full disks are found, named and survived."""

import errno
import shutil
import subprocess

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from saving import META, restore, save, small_state
from tiny_run import tiny_config

from tigerjax.checkpoint import meta as metas
from tigerjax.checkpoint import model as checkpoint
from tigerjax.checkpoint.files import steps
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.config import MeshConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.mesh import run_mesh
from tigerjax.train.checkpoint import Checkpointer
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import abstract_state, init_state

CONFIG = tiny_config()


def truncate(folder, room: str) -> None:
    """Cuts the longest data file in half, as a machine that lost its last writes would."""
    longest = max((p for p in (folder / room).rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    longest.write_bytes(longest.read_bytes()[: longest.stat().st_size // 2])


def flip(folder) -> None:
    """One bit in the middle of the longest file."""
    longest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(longest.read_bytes())
    data[len(data) // 2] ^= 1
    longest.write_bytes(data)


def test_a_state_comes_back_with_its_loader_position(tmp_path):
    save(tmp_path, 2)
    state, meta = restore(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, small_state(2)._replace(step=np.int32(2)))
    assert meta["loader"] == {"index": 5} and meta["tokenizer_sha256"] == "abc"


def test_only_the_newest_are_kept(tmp_path):
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["3", "4"]


@pytest.mark.parametrize("room", ["weights", "opt_state"])
def test_a_truncated_newest_checkpoint_falls_back_to_the_one_before(tmp_path, room, capfd):
    save(tmp_path, 1, 2)
    truncate(tmp_path / "checkpoints" / "2", room)
    state, meta = restore(tmp_path)
    assert meta["step"] == 1 and float(state.weights["embed"][0, 0]) == 1
    said = capfd.readouterr().err
    assert "checkpoints/2 is damaged" in said and "moved to 2.damaged" in said


def test_bytes_that_do_not_decode_are_damage_too(tmp_path, capfd):
    save(tmp_path, 1, 2)
    for file in (tmp_path / "checkpoints" / "2" / "weights").rglob("*"):
        if file.is_file() and "ocdbt" in str(file):
            file.write_bytes(b"\0" * file.stat().st_size)  # the size is right
    assert restore(tmp_path)[1]["step"] == 1
    assert "2 is damaged" in capfd.readouterr().err


def test_a_flipped_bit_is_found_by_its_checksum_and_the_one_before_is_taken(tmp_path, capfd):
    save(tmp_path, 1, 2)
    flip(tmp_path / "checkpoints" / "2" / "weights")
    assert restore(tmp_path)[1]["step"] == 1
    assert "2 is damaged" in (said := capfd.readouterr().err) and "xxh3 is" in said


def test_a_checkpoint_of_an_older_version_is_restored_and_its_damage_is_found(tmp_path, monkeypatch, capfd):
    """They were compressed by zstd, written by Orbax's standard handler, and had SHA-256 alone."""
    monkeypatch.setattr("tigerjax.train.checkpoint.handler", ocp.StandardCheckpointHandler)
    monkeypatch.setattr("tigerjax.train.checkpoint.save_args", lambda state: ocp.args.StandardSave(state))
    save(tmp_path, 1, 2)
    monkeypatch.undo()
    for step in (1, 2):
        path = tmp_path / "checkpoints" / str(step)
        metas.write(path / metas.META, {k: v for k, v in metas.read(path / metas.META).items() if k != "xxh3"})
    state, _ = restore(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, state, small_state(2)._replace(step=np.int32(2)))
    flip(tmp_path / "checkpoints" / "2" / "weights")
    assert restore(tmp_path)[1]["step"] == 1 and "sha256 is" in capfd.readouterr().err


def test_a_model_loads_from_the_run_past_a_damaged_step(tmp_path, capfd):
    save(tmp_path, 1, 2)
    truncate(tmp_path / "checkpoints" / "2", "weights")
    assert load_model(tmp_path).step == 1
    assert "2 is damaged" in capfd.readouterr().err
    assert (tmp_path / "checkpoints" / "2").is_dir()  # a reader moves nothing
    with pytest.raises(DataError, match=r"bytes, .* were written"):
        load_model(tmp_path / "checkpoints" / "2")


def test_a_folder_without_a_whole_checkpoint_is_refused(tmp_path):
    with pytest.raises(DataError, match="no whole checkpoint"):
        load_model(tmp_path)


def test_a_saved_model_is_the_same_wherever_it_is_read(tmp_path):
    weights = {"embed": np.arange(8, dtype=np.float32).reshape(4, 2), "final_norm": {"scale": np.ones(2, np.float32)}}
    for name in ("a", "b"):
        save_model(tmp_path / name, weights, CONFIG.model, tokenizer_sha256="t", step=3, extra={"mean": 0.5})
    one, other = load_model(tmp_path / "a"), load_model(tmp_path / "b")
    jax.tree.map(np.testing.assert_array_equal, one.weights, weights)
    assert one.config == CONFIG.model and one.kind == "llama" and one.extra == {"mean": 0.5} and one.step == 3
    assert one.sha256 == other.sha256
    weights["embed"][0, 0] = 9
    save_model(tmp_path / "a", weights, CONFIG.model)
    assert load_model(tmp_path / "a").sha256 != one.sha256


def test_a_file_of_the_users_in_a_checkpoint_is_named_and_stays(tmp_path):
    weights = {"embed": np.ones((3, 2), np.float32)}
    save_model(tmp_path / "m", weights, CONFIG.model)
    save_model(tmp_path / "m", weights, CONFIG.model)
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"m holds notes\.txt, which the checkpoint there did not write and would"):
        save_model(tmp_path / "m", weights, CONFIG.model)
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"


def test_reading_weights_reads_no_optimiser_state(tmp_path):
    save(tmp_path, 1)
    meta = checkpoint.read_meta(tmp_path / "checkpoints" / "1")
    assert any(name.startswith("opt_state/") for name in meta["files"])
    for file in (tmp_path / "checkpoints" / "1" / "opt_state").rglob("*"):
        if file.is_file():
            file.write_bytes(b"\0" * file.stat().st_size)
    assert load_model(tmp_path).weights["embed"].shape == (8, 4)


def test_a_state_is_restored_on_another_mesh_with_the_same_values(tmp_path):
    config = tiny_config(mesh=MeshConfig(fsdp=4, tensor=2))
    tx = make_optimizer(config.optim)
    many, one = run_mesh(config), run_mesh(CONFIG)
    state = init_state(token_objective(config, many), tx, many, seed=1)
    saver = Checkpointer(tmp_path, keep=1)
    saver.save(1, state, META)
    back, _ = saver.restore(abstract_state(token_objective(CONFIG, one), tx, one))
    saver.close()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(back), jax.device_get(state)._replace(step=np.int32(1)))
    assert all(len(leaf.sharding.device_set) == 1 for leaf in jax.tree.leaves(back))


def test_a_full_disk_is_one_line_and_the_older_checkpoint_is_whole(tmp_path, monkeypatch):
    """On a file system of 400 kB where one can be mounted; elsewhere Orbax is made to fail as it does there."""
    run = tmp_path / "run"
    run.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(run)], capture_output=True)
    try:
        save(run, 1)
        saver = Checkpointer(run, keep=9)
        big = jax.random.normal(jax.random.key(0), (512, 512))
        if mounted.returncode:
            failure = OSError(errno.ENOSPC, "No space left on device")
            monkeypatch.setattr(saver._orbax, "wait_until_finished", lambda: (_ for _ in ()).throw(failure))
        with pytest.raises(DataError, match="the disk is full") as caught:
            saver.save(2, small_state(2)._replace(weights={"embed": big}), META)
            saver.wait()
        assert "\n" not in str(caught.value)
        assert steps(run / "checkpoints") == [1]
        assert restore(run)[1]["step"] == 1
        assert [p.name for p in (run / "checkpoints").iterdir()] == ["1"]
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(run)], check=True)
    shutil.rmtree(run)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json", "params.json"])
def test_a_folder_of_another_form_is_told_how_to_become_a_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=r"here; .* import this model by `tigerjax convert from-hf`$"):
        load_model(tmp_path)
