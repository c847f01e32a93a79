"""A run whose folder is gs://: against a server on loopback that answers as Cloud Storage does (bucket.py)."""

import itertools
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from bucket import Bucket
from child_processes import run as processes
from saving import restore, save, small_state
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.checkpoint.files import steps
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.checkpoint.stored import load_placed, open_model
from tigerjax.command import cli, options, table
from tigerjax.config import MeshConfig
from tigerjax.errors import BucketError, BucketRefused, ConfigError
from tigerjax.files import paths
from tigerjax.mesh import make_mesh, run_mesh
from tigerjax.train.loop import train
from tigerjax.train.metrics import last_record
from tigerjax.train.objective import token_objective
from tigerjax.train.optim import make_optimizer
from tigerjax.train.state import init_state

CONFIG = tiny_config(total_steps=6, every_steps=2, keep=2)
NUMBERS = itertools.count(1)


@pytest.fixture
def place(cloud):
    """A run folder that no test has had: clients may remember one."""
    return f"gs://bucket/{next(NUMBERS)}/run"


def below(cloud: Bucket, place: str) -> list[str]:
    return cloud.names(place.removeprefix("gs://") + "/")


def run(folder, loader=None, config=CONFIG, mesh=None):
    return train(config, loader or TinyLoader(), run_dir=folder, mesh=mesh, reporting=SILENT)


def losses(text: str) -> list[tuple[int, float]]:
    return [(record["step"], record["loss_nats"]) for record in map(json.loads, text.splitlines())]


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def flip(cloud: Bucket, place: str, step: int, room: str) -> str:
    """One bit of the longest object of a checkpoint's room; returns its name there."""
    root = f"{place.removeprefix('gs://')}/checkpoints/{step}/"
    name = max((n for n in cloud.objects if n.startswith(f"{root}{room}/")), key=lambda n: len(cloud.objects[n].data))
    data = bytearray(cloud.objects[name].data)
    data[len(data) // 2] ^= 1
    cloud.put(name, bytes(data))
    return name.removeprefix(root)


def test_a_run_that_is_stopped_goes_on_to_the_losses_and_weights_of_one_on_disk(cloud, place, tmp_path, capfd):
    whole = run(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(place, TinyLoader(crash_at=5))
    assert steps(paths.of(place) / "checkpoints")[0] in (2, 4)
    state = run(place)
    assert "resuming tiny from step" in capfd.readouterr().err
    assert_same(state, whole)
    local = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert losses(paths.of(f"{place}/metrics.jsonl").read_text()) == losses(local)
    assert last_record(paths.of(place))["step"] == 6
    found = below(cloud, place)
    assert "config.txt" in found and any(name.startswith("tensorboard/events") for name in found)
    assert {name.split("/")[1] for name in found if name.startswith("checkpoints/")} == {"4", "6"}  # keep=2


def test_sigterm_saves_what_was_trained_and_all_that_was_logged(cloud, place):
    class Preempted(TinyLoader):
        def __next__(self):
            if self.index == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().__next__()

    with pytest.raises(SystemExit) as stopped:
        run(place, Preempted(), tiny_config(total_steps=40, every_steps=40))
    assert stopped.value.code == 143
    (step,) = steps(paths.of(place) / "checkpoints")
    assert [at for at, _ in losses(paths.of(f"{place}/metrics.jsonl").read_text())] == list(range(1, step + 1))


@pytest.mark.slow
def test_two_processes_write_one_run_into_a_bucket_and_go_on_after_a_signal(cloud, place, tmp_path):
    """The processes inherit the environment by which the server is found."""
    for scenario, codes in (("preempt", [143, 143]), ("plain", [0, 0])):
        ended = processes([Path(__file__).with_name("several.py"), scenario, place, 8, 4], tmp_path / scenario, 2)
        assert ended.codes == codes, ended.errors
    config = tiny_config(mesh=MeshConfig(fsdp=4), total_steps=8, every_steps=4)
    alone = run(tmp_path / "alone", config=config, mesh=make_mesh(config.mesh, jax.devices()[:4]))
    for mine, theirs in zip(*(jax.tree.leaves(w) for w in (alone.weights, load_model(place).weights)), strict=True):
        np.testing.assert_allclose(jax.device_get(mine), theirs, atol=1e-4)  # as on a disk: test_several.py
    assert cli.main(["checkpoint", "verify", place]) == 0


def test_a_state_comes_back_and_only_the_newest_are_kept(cloud, place):
    save(place, 1, 2, 3, keep=2)
    assert steps(paths.of(place) / "checkpoints") == [3, 2]
    state, meta = restore(place)
    assert_same(state, small_state(3)._replace(step=np.int32(3)))
    assert meta["loader"] == {"index": 5}
    assert not any("partial" in name or "/1/" in name for name in below(cloud, place))


def test_a_step_without_its_meta_is_not_there_and_goes_at_the_next_save(cloud, place):
    save(place, 1, 2)
    root = f"{place.removeprefix('gs://')}/checkpoints"
    del cloud.objects[f"{root}/2/meta.json"]
    assert steps(paths.of(place) / "checkpoints") == [1]
    assert load_model(place).step == 1 and restore(place)[1]["step"] == 1
    save(place, 3)
    assert steps(paths.of(place) / "checkpoints") == [3, 1] and not cloud.names(f"{root}/2/")


def test_a_save_whose_last_object_is_refused_leaves_the_one_before(cloud, place):
    save(place, 1)
    cloud.refuse = lambda method, name: 403 if method == "POST" and name.endswith("2/meta.json") else None
    with pytest.raises(OSError, match="Forbidden"):
        save(place, 2)
    assert steps(paths.of(place) / "checkpoints") == [1] and restore(place)[1]["step"] == 1


def test_a_bucket_that_refuses_to_be_read_is_not_a_damaged_checkpoint(cloud, place):
    save(place, 1, 2)
    before = below(cloud, place)
    for part in ("2/meta.json", "2/weights/"):  # read by gcsfs; and by gcsfs and TensorStore
        cloud.refuse = lambda method, name, part=part: 403 if f"/{part}" in name else None
        for read in (restore, load_model, open_model):
            if (part, read) != ("2/weights/", open_model):  # reads no weight yet
                with pytest.raises(BucketRefused, match="the bucket refused: "):
                    read(place)
    cloud.refuse = lambda method, name: None
    assert below(cloud, place) == before and restore(place)[1]["step"] == 2


def test_errors_of_the_arrays_client_are_the_bucket_s(cloud, place):
    cloud.refuse = lambda method, name: 403 if method == "POST" and "/ocdbt.process_0/" in name else None
    with pytest.raises(Exception, match="PERMISSION_DENIED") as caught:
        save(place, 1)
    assert isinstance(paths.trouble(caught.value), BucketRefused)
    assert paths.trouble(ValueError("DATA_LOSS: Invalid magic number reading gs://bucket/x")) is None
    assert type(paths.trouble(ValueError("UNAVAILABLE: Connection refused"))) is BucketError


def test_a_flipped_bit_is_named_and_the_one_before_is_taken(cloud, place, capfd):
    save(place, 1, 2, 3)
    name = flip(cloud, place, 3, "weights")
    assert cli.main(["checkpoint", "verify", place]) == 3
    said = capfd.readouterr()
    assert f"checkpoints/3/{name}: sha256 is" in said.out and "damaged: 3;" in said.err
    assert restore(place)[1]["step"] == 2
    said = capfd.readouterr().err
    assert f"{place}/checkpoints/3 is damaged" in said and "moved to 3.damaged" in said
    assert steps(paths.of(place) / "checkpoints") == [2, 1]
    assert any(n.startswith("checkpoints/3.damaged/weights/") for n in below(cloud, place))


def test_ls_verify_and_rm(cloud, place, tmp_path, capfd):
    save(place, 1, 2, 3)
    missing = flip(cloud, place, 1, "opt_state")
    del cloud.objects[f"{place.removeprefix('gs://')}/checkpoints/1/{missing}"]
    cloud.put(f"{place.removeprefix('gs://')}/checkpoints/0.damaged/meta.json", b"{}")
    assert cli.main(["checkpoint", "ls", place, "--json", str(tmp_path / "ls.json")]) == 0
    found = json.loads((tmp_path / "ls.json").read_text())
    assert [row["step"] for row in found["checkpoints"]] == [3, 2, 1] and found["damaged"] == ["0.damaged"]
    assert found["checkpoints"][0]["state"] == "whole" and found["checkpoints"][0]["bytes"] > 1000
    assert f"{missing}: missing" in found["checkpoints"][2]["state"]
    assert cli.main(["checkpoint", "verify", f"{place}/checkpoints", "--step", "2", "3"]) == 0
    assert cli.main(["checkpoint", "rm", place, "--step", "3"]) == 2
    assert "3 is the newest whole checkpoint" in capfd.readouterr().err
    assert cli.main(["checkpoint", "rm", place, "--step", "1", "2", "--damaged"]) == 0
    assert {name.split("/")[1] for name in below(cloud, place)} == {"3"}


def test_a_model_is_the_same_from_bucket_and_disk_whole_part_by_part_and_placed(cloud, place, tmp_path):
    objective = token_objective(CONFIG, run_mesh(CONFIG))
    weights = jax.device_get(init_state(objective, make_optimizer(CONFIG.optim), run_mesh(CONFIG), seed=0).weights)
    for folder in (tmp_path / "model", f"{place}/model"):
        save_model(folder, weights, CONFIG.model, tokenizer_sha256="t", step=3)
    disk, far = load_model(tmp_path / "model"), load_model(f"{place}/model")
    assert_same(disk.weights, far.weights)
    assert far.sha256 == disk.sha256 and far.tokenizer_sha256 == "t"
    assert open_model(f"{place}/model").weights["embed"][3:5].tolist() == disk.weights["embed"][3:5].tolist()
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
    assert_same(load_placed(f"{place}/model", mesh, "float32").weights, disk.weights)
    save_model(f"{place}/model", jax.tree.map(lambda w: w + 1, weights), CONFIG.model)  # over the old one
    assert load_model(f"{place}/model").sha256 != disk.sha256
    cloud.put(f"{place.removeprefix('gs://')}/other/notes.txt", b"mine")
    with pytest.raises(ConfigError, match="holds something that is not a checkpoint"):
        save_model(f"{place}/other", weights, CONFIG.model)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["quickstart", "--out", "gs://bucket/run"], "out: gs://bucket/run lies in a bucket"),
        (["train", "gs://bucket/config.py"], "the config: gs://bucket/config.py lies in"),
        (["checkpoint", "ls", "gs://"], "names no bucket; write gs://BUCKET/FOLDER"),
    ],
)
def test_what_does_not_take_buckets_refuses_them_before_any_work(cloud, words, message, capsys):
    assert cli.main(words) == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


def test_a_bucket_that_refuses_is_one_line(cloud, place, capsys):
    cloud.refuse = lambda method, name: 403
    assert cli.main(["checkpoint", "ls", place]) == 3
    said = capsys.readouterr().err
    assert "403" in said or "Forbidden" in said
    assert said.count("\n") == 1


def test_every_path_of_a_command_takes_buckets_but_for_five_and_config_files():
    left = {
        (*words, option.name)
        for words, command in table.COMMANDS.items()
        for option in options.of_command(command)
        if option.stays_on_disk
    }
    assert left == {
        ("new", "name"),
        ("quickstart", "--out"),
        ("evaluate", "--include-path"),
        ("serve", "--api-key-file"),
        ("serve", "--labels"),
    }
