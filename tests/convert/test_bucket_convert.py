"""Conversion with gs:// on either side: the bits of the disk, restarts and refusals, on a stand-in for the service."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from test_hf import CONFIG, Q1, assert_same, random_weights, tokenizer_folder

from tigerjax.checkpoint.model import load_model
from tigerjax.checkpoint.stored import open_model
from tigerjax.command.cli import main
from tigerjax.convert import hf, read
from tigerjax.convert.journal import FILE, Journal
from tigerjax.convert.shards import Shards
from tigerjax.errors import DataError
from tigerjax.files import log, manifest, paths
from tigerjax.model import weights as rows_of_weights

FAR = "gs://bucket/convert"
SHARD_BYTES = 5000


@pytest.fixture
def near(tmp_path):
    """A folder in four files of a few tensors, and a tokenizer."""
    hf.to_hf(random_weights(), CONFIG, tmp_path / "near" / "hf", hf.Export(tokenizer=None, max_shard_bytes=SHARD_BYTES))
    tokenizer_folder(tmp_path / "near" / "tok", CONFIG.vocab_size)
    return tmp_path / "near"


@pytest.fixture
def cloud(cloud, near, scratch):
    """The same in a bucket; what is written to the disk on the way goes."""
    paths.upload(near, paths.of(FAR))
    yield cloud
    assert not list(scratch.iterdir())


@pytest.fixture(scope="module")
def made():
    """Objects of the checkpoint that the first test made."""
    return {}


@pytest.fixture
def run(cloud, made):
    """A checkpoint in the bucket that came from the folder there."""
    if not made:
        assert main(["convert", "from-hf", f"{FAR}/hf", f"{FAR}/run", "--verify"]) == 0
        made.update(
            {name: cloud.objects[f"bucket/convert/run/{name}"].data for name in cloud.names("bucket/convert/run/")}
        )
    for name, data in made.items():
        cloud.put(f"bucket/convert/run/{name}", data)
    return f"{FAR}/run"


def export(run, out, **options):
    """As the command does, in files of SHARD_BYTES."""
    options = {"tokenizer": None, "max_shard_bytes": SHARD_BYTES, "lineage": {"step": 7}} | options
    return hf.to_hf(open_model(run).weights, CONFIG, out, hf.Export(**options))


def tensors(folder):
    """The bytes of the files that hold tensors, and their index."""
    folder = paths.of(folder)
    return {name: (folder / name).read_bytes() for name in paths.names(folder) if "model" in name}


def test_both_ways_through_a_bucket_give_back_every_bit(cloud, near, run, tmp_path, capsys):
    model = load_model(run)
    assert_same(model.weights, random_weights())
    assert model.config == CONFIG and model.extra["source"]["folder"] == "hf"
    assert FILE not in cloud.names("bucket/convert/run/")
    words = ["--dtype", "bfloat16", "--verify", "--json", f"{FAR}/out.json"]
    assert main(["convert", "to-hf", run, f"{FAR}/again", *words]) == 0
    assert json.loads(cloud.objects["bucket/convert/out.json"].data)["verified_tensors"] == 30
    assert main(["convert", "from-hf", str(near / "hf"), str(tmp_path / "run")]) == 0
    assert main(["convert", "to-hf", str(tmp_path / "run"), str(tmp_path / "again"), "--dtype", "bfloat16"]) == 0
    sizes = paths.sizes(tmp_path / "again")
    assert sorted(sizes) == cloud.names("bucket/convert/again/")
    for name in set(sizes) - {"README.md", manifest.FILE}:  # which name the checkpoint's sha256
        assert cloud.objects[f"bucket/convert/again/{name}"].data == (tmp_path / "again" / name).read_bytes(), name
    assert not (tmp_path / "cache").exists()


def test_an_export_copies_its_tokenizer_from_one_bucket_folder_to_another(cloud, run, near):
    export(run, f"{FAR}/again", tokenizer=paths.of(f"{FAR}/tok"))
    assert cloud.objects["bucket/convert/again/tokenizer.model"].data == b"pieces"
    assert json.loads(cloud.objects["bucket/convert/again/config.json"].data)["pad_token_id"] == 30
    assert json.loads(cloud.objects["bucket/convert/again/manifest.json"].data)["stage"] == read.EXPORT


def test_rows_of_a_tensor_are_read_as_a_range_of_its_bytes(cloud, near):
    far, disk = read.open_hf(f"{FAR}/hf"), read.open_hf(near / "hf")
    assert far.tensors.shapes == disk.tensors.shapes and far.config == CONFIG
    cloud.asked.clear()
    np.testing.assert_array_equal(far.tensors.rows(Q1, 3, 9), disk.tensors.rows(Q1, 3, 9))
    objects = [name for _, name in cloud.asked if name != "bucket/"]  # a listing of the opening may come late
    assert len(objects) == 1
    for name, shape in far.tensors.shapes.items():
        np.testing.assert_array_equal(far.tensors.rows(name, 0, shape[0]), disk.tensors.rows(name, 0, shape[0]))


def test_files_of_an_export_are_uploaded_whole_and_finished_ones_are_kept(cloud, run, near):
    out, refused = f"{FAR}/again", "model-00003"
    cloud.refuse = lambda method, name: 403 if method == "POST" and refused in name else None
    with pytest.raises(OSError, match="Forbidden"):
        export(run, out)
    cloud.refuse = lambda method, name: None
    left = cloud.names("bucket/convert/again/")
    assert [name[:11] for name in left] == ["model-00001", "model-00002", FILE[:11]]
    cloud.asked.clear()
    counts = export(run, out)
    assert counts["tensors"] == 30 and tensors(out) == tensors(near / "hf")
    written = [name for method, name in cloud.asked if method == "POST" and name.endswith(".safetensors")]
    assert not [name for name in written if "00001-of" in name or "00002-of" in name] and len(written) >= 2
    posted = [name for method, name in cloud.asked if method == "POST" and "/again/" in name and FILE not in name]
    assert posted[-1].endswith(manifest.FILE)
    assert FILE not in cloud.names("bucket/convert/again/")
    assert_same(hf.from_hf(out)[1], random_weights())


class Killed(BaseException):
    """As a signal would be: no code handles it."""


def killed(monkeypatch, after):
    """The names of the tensors that are written down from now on; the process dies, once, when they are so many."""
    add, done, dead = Journal.add, [], []

    def dies(journal, *entry):
        add(journal, *entry)
        done.append(entry[0])
        if len(done) == after and not dead:
            dead.append(True)
            raise Killed

    monkeypatch.setattr(Journal, "add", dies)
    return done


@pytest.mark.parametrize(("after", "lag"), [(1, 0.0), (17, 0.0), (17, 1000.0), (29, 1000.0)])
def test_an_export_that_is_killed_goes_on_after_the_last_whole_file(cloud, run, near, monkeypatch, after, lag):
    monkeypatch.setattr(
        rows_of_weights, "BLOCK_BYTES", 4 * 12 * 8
    )  # two heads or seven rows: every tensor takes several
    monkeypatch.setattr(log, "LAG_S", lag)  # with 0 the journal knows of tensors whose file is not there yet
    done = killed(monkeypatch, after)
    with pytest.raises(Killed):
        export(run, f"{FAR}/again")
    assert not {"config.json", manifest.FILE} & set(cloud.names("bucket/convert/again/"))
    whole = [name for name in cloud.names("bucket/convert/again/") if name.endswith(".safetensors")]
    done.clear()
    export(run, f"{FAR}/again")
    index = json.loads(cloud.objects["bucket/convert/again/model.safetensors.index.json"].data)["weight_map"]
    assert not {index[name] for name in done} & set(whole)
    assert tensors(f"{FAR}/again") == tensors(near / "hf")
    assert json.loads(cloud.objects[f"bucket/convert/again/{read.CHECKSUMS}"].data) == json.loads(
        (near / "hf" / read.CHECKSUMS).read_text()
    )


def test_a_file_whose_tensors_are_not_all_written_down_is_not_kept(cloud, tmp_path):
    shapes = {"a": (3, 5), "b": (7,)}
    disk = Shards(tmp_path, shapes, "float32", 1000)
    for name, shape in shapes.items():
        disk.start(name)
        disk.write(np.ones(shape, np.float32))
        disk.end(name)
    far = Shards(paths.of(f"{FAR}/again"), shapes, "float32", 1000)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for data, done, kept in ((whole, "ab", "ab"), (whole, "a", ""), (whole[:-1], "ab", "")):
        cloud.put("bucket/convert/again/model.safetensors", data)
        assert far.written(dict.fromkeys(done, "")) == dict.fromkeys(kept, "")
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    assert disk.written({"a": "", "b": ""}) == {"a": ""}  # on a disk one goes on in the middle of a file
    far.close()


@pytest.mark.parametrize("after", [12, 30])
def test_an_import_that_is_killed_goes_on_where_it_was(cloud, monkeypatch, after):
    monkeypatch.setattr(log, "LAG_S", 0.0)
    done = killed(monkeypatch, after)
    with pytest.raises(Killed):
        main(["convert", "from-hf", f"{FAR}/hf", f"{FAR}/run"])
    assert FILE in cloud.names("bucket/convert/run/") and "meta.json" not in cloud.names("bucket/convert/run/")
    with pytest.raises(DataError, match="no whole checkpoint here"):
        load_model(f"{FAR}/run")
    first = set(done)
    done.clear()
    assert main(["convert", "from-hf", f"{FAR}/hf", f"{FAR}/run"]) == 0
    assert not first & set(done) and len(first) + len(done) == 30
    assert_same(load_model(f"{FAR}/run").weights, random_weights())
    assert FILE not in cloud.names("bucket/convert/run/")


def test_what_is_there_already_is_replaced_when_it_is_ours_and_refused_when_not(cloud, run, capsys):
    assert main(["convert", "from-hf", f"{FAR}/hf", run, "--dtype", "bfloat16"]) == 0
    assert load_model(run).weights["embed"].dtype.name == "bfloat16"
    for dtype in ("float32", "bfloat16"):
        assert main(["convert", "to-hf", run, f"{FAR}/again", "--dtype", dtype]) == 0
    assert cloud.names("bucket/convert/again/model.safetensors") == [""]
    assert hf.from_hf(f"{FAR}/again")[0] == CONFIG
    for words, other in ((["to-hf", run], read.STAGE), (["from-hf", f"{FAR}/hf"], read.EXPORT)):
        for mine in ({"loss": 1}, {"stage": other}):
            cloud.put("bucket/convert/mine/progress.jsonl", json.dumps(mine).encode() + b"\n")
            capsys.readouterr()
            assert main(["convert", *words, f"{FAR}/mine"]) == 2
            assert "gs://bucket/convert/mine holds something that is not" in capsys.readouterr().err
    assert cloud.names("bucket/convert/mine/") == ["progress.jsonl"]


def test_a_bucket_that_refuses_is_not_a_broken_file_and_a_broken_file_is(cloud, run, capsys):
    name = cloud.names("bucket/convert/hf/model-")[1]
    for part in (f"hf/model-{name}", "hf/config.json"):
        cloud.refuse = lambda method, asked, part=part: 403 if asked.endswith(part) else None
        capsys.readouterr()
        assert main(["convert", "from-hf", f"{FAR}/hf", f"{FAR}/other"]) == 3
        said = capsys.readouterr().err
        assert said.startswith("tigerjax: the bucket refused: ") and said.count("\n") == 1
    cloud.refuse = lambda method, asked: 403 if "/other/" in asked and method == "POST" else None
    for words in (["from-hf", f"{FAR}/hf"], ["to-hf", run]):
        capsys.readouterr()
        assert main(["convert", *words, f"{FAR}/other"]) == 3
        assert "the bucket refused: " in capsys.readouterr().err
    cloud.refuse = lambda method, asked: None
    whole = cloud.objects[f"bucket/convert/hf/model-{name}"].data
    header = int.from_bytes(whole[:8], "little")
    for broken in (b"", whole[:6], whole[:-4], whole + b"\0", whole[: 8 + header // 2], whole[:8] + whole[16:]):
        cloud.put(f"bucket/convert/hf/model-{name}", broken)
        capsys.readouterr()
        assert main(["convert", "from-hf", f"{FAR}/hf", f"{FAR}/other"]) == 3
        assert f"gs://bucket/convert/hf/model-{name}: not a whole safetensors file" in capsys.readouterr().err


def test_a_value_that_is_not_finite_leaves_nothing_in_the_bucket(cloud, near):
    shard = next(p for p in (near / "hf").glob("*.safetensors") if Q1 in load_file(p))
    broken = load_file(shard)
    broken[Q1][-1, -1] = np.inf
    save_file(broken, shard)
    cloud.put(f"bucket/convert/hf/{shard.name}", shard.read_bytes())
    assert main(["convert", "from-hf", f"{FAR}/hf", f"{FAR}/run"]) == 3
    assert not cloud.names("bucket/convert/run/")


@pytest.mark.peers
def test_bin_files_in_a_bucket_are_copied_once_and_read_through_torch(cloud, near, tmp_path):
    import torch

    found = {}
    for shard in (near / "hf").glob("*.safetensors"):
        found |= {name: torch.from_numpy(t.copy()) for name, t in load_file(shard).items()}
    torch.save(found, tmp_path / "whole.bin")
    cloud.put("bucket/convert/bin/pytorch_model.bin", (tmp_path / "whole.bin").read_bytes())
    cloud.put("bucket/convert/bin/config.json", (near / "hf" / "config.json").read_bytes())
    assert_same(hf.from_hf(f"{FAR}/bin")[1], random_weights())
    assert len(list((tmp_path / "cache" / "tigerjax").iterdir())) == 1


@pytest.mark.slow
def test_memory_of_a_conversion_in_a_bucket_does_not_grow_with_depth(cloud, tmp_path):
    """In processes of a process of its own: the system counts the size of its parent as a process's peak."""
    script = str(pathlib.Path(__file__).parents[2] / "benchmarks" / "speed" / "convert_memory.py")
    words = ["--layers", "3", "9", "--size", "eighth", "--at", f"{FAR}/depth", "--json", str(tmp_path / "memory.json")]
    subprocess.run([sys.executable, script, *words], check=True, timeout=500)
    three, nine = json.loads((tmp_path / "memory.json").read_text())["rows"]
    grown = nine["GB, float32"] - three["GB, float32"]
    for what in ("from-hf peak RSS, GB", "to-hf peak RSS, GB"):
        assert nine[what] - three[what] < grown / 2, (what, three, nine)
