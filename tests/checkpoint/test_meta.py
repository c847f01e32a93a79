"""Damage to a checkpoint's own description is always found: in meta.json, and where Orbax describes the arrays."""

import json
import random
import shutil

import numpy as np
import pytest
from saving import CONFIG, save

from tigerjax.checkpoint import meta as metas
from tigerjax.checkpoint.files import amend, check_bytes, read_meta
from tigerjax.checkpoint.model import load_model, save_model
from tigerjax.errors import DataError
from tigerjax.files import seal

ROOMS = ("weights", "opt_state")
FLIPS = 150  # of each file


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint of a training state: its folder."""
    folder = tmp_path_factory.mktemp("made")
    save(folder, 7)
    return folder / "checkpoints" / "7"


@pytest.fixture
def checkpoint(made, tmp_path):
    """A copy that may be damaged."""
    return shutil.copytree(made, tmp_path / "7")


def damaged(checkpoint) -> bool:
    """Whether reading it, as a resumed run does, says that it is damaged; anything but that error is a bug."""
    try:
        check_bytes(checkpoint, read_meta(checkpoint), ROOMS)
    except DataError as error:
        assert "\n" not in str(error) and "7" in str(error)
        return True
    return False


def flips(data: bytes, seed: int):
    """(what, damaged bytes): every bit of some bytes, and bytes changed for others of each class."""
    rng = random.Random(seed)
    for at in rng.sample(range(len(data)), min(FLIPS // 10, len(data))):
        for bit in range(8):
            yield f"bit {bit} of byte {at}", data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
    classes = {"digit": b"0123456789", "letter": b"abcdefABCDEF", "quote": b'"', "space": b" \n", "mark": b"{}[]:,"}
    for name, chars in classes.items():
        places = [i for i, byte in enumerate(data) if byte in chars]
        for at in rng.sample(places, min(FLIPS // 20, len(places))):
            other = rng.choice([c for c in b'0123456789abcdef"\n {}[]:,\0\xff' if c != data[at]])
            yield f"{name} at {at}", data[:at] + bytes([other]) + data[at + 1 :]
    yield "cut in half", data[: len(data) // 2]
    yield "empty", b""
    yield "one byte more", data + b" "


def test_every_flip_in_meta_json_and_in_the_files_beside_the_arrays_is_found(checkpoint):
    assert not damaged(checkpoint)
    described = [p for p in checkpoint.rglob("*") if p.is_file() and (p.name[0] == "_" or p.name == metas.META)]
    assert {"_CHECKPOINT_METADATA", "_METADATA", metas.META} <= {p.name for p in described}
    for number, path in enumerate(described):
        whole = path.read_bytes()
        for what, data in flips(whole, number):
            path.write_bytes(data)
            assert damaged(checkpoint), f"{path.relative_to(checkpoint)}: {what}"
        path.write_bytes(whole)
    assert not damaged(checkpoint)


@pytest.mark.parametrize(("entry", "value"), [("step", 8), ("loader", {"index": 6}), ("extra", {"a": 1})])
def test_a_changed_step_or_data_position_is_damage_and_not_another_place_to_resume(checkpoint, entry, value):
    path = checkpoint / metas.META
    meta = json.loads(path.read_text())
    path.write_text(json.dumps(meta | {entry: value}, indent=1) + "\n")
    assert damaged(checkpoint)
    metas.write(path, meta | {entry: value})
    assert read_meta(checkpoint)[entry] == value


def test_what_is_amended_has_its_checksum_again(checkpoint):
    amend(checkpoint, {"calibration": {"mean": 0.5}})
    assert not damaged(checkpoint) and read_meta(checkpoint)["extra"] == {"calibration": {"mean": 0.5}}


def old(checkpoint, **changes):
    """The checkpoint as an older version wrote it, without a checksum of meta.json."""
    path = checkpoint / metas.META
    meta = {k: v for k, v in json.loads(path.read_text()).items() if k not in (seal.OWN, seal.SEALED)}
    path.write_text(json.dumps({k: v for k, v in (meta | changes).items() if v != "gone"}))


def test_a_checkpoint_of_an_older_version_is_read_and_said_to_be_unprotected(checkpoint, capfd):
    old(checkpoint)
    assert not damaged(checkpoint) and not damaged(checkpoint)
    said = capfd.readouterr().err
    assert said.count("was written by an older version: its meta.json has no checksum") == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"step": "7"}, {"step": -1}, {"step": True}, {"step": "gone"}, {"files": []}, {"files": {"a": "1"}},
        {"model": None}, {"kind": 3}, {"extra": []}, {"config": {}}, {"sha256": 1}, {"files": "gone"}, {"health": 1},
    ],
)  # fmt: skip
def test_an_old_meta_json_of_another_form_is_damage_and_no_traceback(checkpoint, changes):
    old(checkpoint, **changes)
    assert damaged(checkpoint)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "3", '"a"', "[" * 100_000, '{"files": {}}', '{"step": NaN}', "\udcff"]
)
def test_a_meta_json_that_is_none_is_damage_and_no_traceback(checkpoint, text):
    (checkpoint / metas.META).write_bytes(text.encode(errors="surrogateescape"))
    assert damaged(checkpoint)


def test_a_model_of_impossible_sizes_is_damage(checkpoint):
    model = json.loads((checkpoint / metas.META).read_text())["model"]
    for change in ({"num_layers": 10**9}, {"rope_base": float("nan")}, {"num_kv_heads": 0}, {"other": 1}):
        metas.write(checkpoint / metas.META, read_meta(checkpoint) | {"model": model | change})
        with pytest.raises(DataError, match=r"meta\.json: "):
            load_model(checkpoint)


def test_weights_that_are_not_finite_are_never_saved_as_a_model(tmp_path):
    weights = {"embed": np.full((4, 2), np.nan, np.float32), "final_norm": {"scale": np.ones(2, np.float32)}}
    with pytest.raises(DataError, match="weights are not saved: not finite: embed; take an earlier checkpoint"):
        save_model(tmp_path / "a", weights, CONFIG.model)
    assert not list(tmp_path.iterdir())
