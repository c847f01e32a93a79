"""A round whose folder, SFT set, models and questions are on gs:// (a stand-in): the winners and the set of a disk."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from child_processes import run as processes
from tiny_project import ROOT, align, config_words

from tigerjax.align.config import AlignConfig
from tigerjax.align.steps import Step, status
from tigerjax.checkpoint.model import load_model
from tigerjax.command.cli import main
from tigerjax.files import manifest, paths
from tigerjax.sample import engine

STORE = "gs://bucket/round"
WORDS = ROOT / "configs" / "quickstart_rejection_sampled.py"


def begin(root: object, *more: object) -> None:
    """`align init`, with everything that the rounds read below `root`."""
    named = {"sft": "sft.jsonl", "models": "ends", "reward": "reward", "evaluation-set": "questions.jsonl"}
    named |= {"gold": "gold.jsonl", "safety": "safety.txt", "exclude": "exclude.txt", "out": "align"}
    words = [word for name, file in named.items() for word in (f"--{name}", f"{root}/{file}")]
    words += ["--n", 4, "--max-new-tokens", 8, "--align.rank-fraction", 0.4, "--align.edit-fraction", 0.2]
    align("init", WORDS, *config_words(root, 4, 8), *words, "--align.min-win-rate", 0, "--score-batch-size", 8, *more)


@pytest.fixture(scope="module")
def root(made, tmp_path_factory) -> Path:
    """The materials, and files of every other kind that `align init` takes."""
    folder = tmp_path_factory.mktemp("root")
    for item in made.iterdir():
        (folder / item.name).symlink_to(item)
    (folder / "safety.txt").write_text("unsafe\n")
    (folder / "exclude.txt").write_text("e7\n")
    gold = {"prompt_id": "g", "messages": [{"role": "user", "content": "Say 好"}], "chosen": "好", "rejected": "no"}
    (folder / "gold.jsonl").write_text(json.dumps(gold) + "\n")
    return folder


@pytest.fixture(scope="module")
def whole(root) -> Path:
    """The alignment after one round on a disk, and the labels that people gave for it in labels.jsonl."""
    begin(root)
    align("run", root / "align", code=4)
    lines = []
    for item in read(root / "align/rounds/01/queue/queue.jsonl"):
        line = {name: item[name] for name in ("prompt_id", "batch_sha256")} | {"annotator": "a"}
        labels = [c["label"] for c in item["candidates"]]
        lines += [line | {"ranking": [labels[1:], labels[:1]]}] if item["rank"] else []
        lines += [line | {"base": labels[0], "text": "People wrote this."}] if item["edit"] else []
    (root / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    align("import", root / "align", "--labels", root / "labels.jsonl")
    align("run", root / "align")
    return root / "align"


@pytest.fixture
def stored(cloud, root, whole, monkeypatch, tmp_path):
    """The bucket with all of `root`, but for the alignment."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for item in root.iterdir():
        if item.is_dir() and item != whole:
            paths.upload(item.resolve(), paths.of(f"{STORE}/{item.name}"))
        elif item.is_file():
            paths.of(f"{STORE}/{item.name}").write_bytes(item.read_bytes())
    return cloud


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def made_by(folder: Path) -> dict[str, bytes]:
    """Bytes of a round's files, but for manifests, the trainer's own folder, and the place of the candidate."""
    names = [name for name in paths.sizes(folder) if not name.endswith(manifest.FILE)]
    return {n: (folder / n).read_bytes() for n in names if not n.startswith(("train/run/", "candidate/"))}


def test_a_round_in_a_bucket_ends_in_the_winners_and_the_set_of_a_disk(stored, whole, root, monkeypatch, capfd):
    """It is stopped while it samples, then an upload is refused, then it waits for people, and then it ends."""
    begin(STORE)
    there, complete, done = f"{STORE}/align", engine.complete, []

    def stopping(*given, **options):
        for number, one in enumerate(complete(*given, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield one

    monkeypatch.setattr(engine, "complete", stopping)
    align("run", there, code=130)
    (work,) = [n for n in stored.names("bucket/round/align/rounds/01/sample.work-") if n.endswith(".partial.jsonl")]
    assert len(read(paths.of(f"{there}/rounds/01/sample.work-{work}"))) == 2
    assert {s["step"]: s["state"] for s in status(paths.of(f"{there}/rounds/01"))}["sample"] == "working"

    monkeypatch.setattr(engine, "complete", lambda *a, **o: done.append(len(o["done"])) or complete(*a, **o))
    stored.refuse = lambda method, name: 403 if method == "POST" and name.endswith("queue/key.jsonl") else None
    capfd.readouterr()
    align("run", there, code=3)
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if "refused" in line] == [lines[-1]] and lines[-1].startswith("tigerjax: the bucket")
    assert done == [2] and manifest.read(f"{there}/rounds/01/queue") is None
    assert not stored.names("bucket/round/align/rounds/01/sample.work-")

    stored.refuse = lambda method, name: None
    align("run", there, code=4)
    assert f"{there}/rounds/01/queue/queue.md" in capfd.readouterr().err
    align("import", there, "--labels", f"{STORE}/labels.jsonl")
    assert stored.names("bucket/round/align/labels/01/") == ["0001-labels.jsonl"]
    align("run", there, "--json", f"{STORE}/figures.json")
    assert done == [2, 0]  # the held-out question, asked of the new model

    far, near = paths.of(f"{there}/rounds/01"), whole / "rounds/01"
    assert made_by(far) == made_by(near)
    assert {"mix/sft.jsonl", "rank/preferences.jsonl", "gate/gate.json"} < made_by(far).keys()
    assert load_model(far / "train/run").sha256 == load_model(near / "train/run").sha256
    outputs = [output["path"] for output in manifest.read(far / "train")["outputs"]]
    assert "run/metrics.jsonl" in outputs and outputs == [n for n in paths.sizes(far / "train") if n != manifest.FILE]
    (figures,) = json.loads(stored.objects["bucket/round/figures.json"].data)["rounds"]
    assert figures["checkpoint"] == f"{there}/rounds/01/train/run" and figures["winners"]["human"] > 0
    before = dict(stored.objects)
    stored.asked.clear()
    align("run", there)
    align("status", there, "--json", f"{STORE}/status.json")
    assert {s["state"] for s in json.loads(stored.objects["bucket/round/status.json"].data)["steps"]} == {"done"}
    changed = {name for method, name in stored.asked if method != "GET"}
    # A command that may write says so in a bucket by a file, which it removes.
    assert changed - {"bucket/", "bucket/round/align/.lock"} == {"bucket/round/status.json"}
    assert not any(name.endswith(".lock") for name in stored.objects)
    assert before == {name: stored.objects[name] for name in before}

    for at in (root, STORE):
        assert main(["report", f"{at}/align", "--json", f"{at}/page.json"]) == 0
    page = stored.objects["bucket/round/align/report.html"].data.decode()
    assert "Round by round" in page and "From data to export" in page
    one, other = (json.loads(paths.of(f"{at}/page.json").read_bytes()) for at in (root, STORE))
    assert one["align_rounds"] == other["align_rounds"] and one["runs"].keys() == other["runs"].keys()
    names = [sorted((node["name"], node["stage"], len(node["of"])) for node in t["lineage"]) for t in (one, other)]
    assert names[0] == names[1] and len(names[0]) > 10


def test_scores_of_files_and_another_calibration_are_those_of_a_disk(stored, root, whole, capfd):
    """A model that may not be read is no bad model, and what may not be written leaves nothing."""
    paths.of(f"{STORE}/answers.jsonl").write_bytes((whole / "rounds/01/sample/candidates.jsonl").read_bytes())
    config = [ROOT / "configs" / "quickstart_reward.py", *config_words(STORE, 4, 8)]
    command = [*map(str, ["reward", "score", *config, "--input", f"{STORE}/ans*.jsonl"]), "--out", f"{STORE}/scored"]
    command += ["--score-batch-size", "8", "--reward", f"{STORE}/reward", "--json", f"{STORE}/figures.json"]
    for method, part in (("GET", "reward/weights/"), ("POST", "scored/scored.jsonl")):
        stored.refuse = lambda m, name, method=method, part=part: 403 if m == method and part in name else None
        capfd.readouterr()
        assert main(command) == 3
        assert capfd.readouterr().err.splitlines()[-1].startswith("tigerjax: the bucket refused: ")
        assert manifest.read(f"{STORE}/scored") is None and "bucket/round/figures.json" not in stored.objects
    stored.refuse = lambda method, name: None
    assert main(command) == 0
    scored = read(paths.of(f"{STORE}/scored/scored.jsonl"))
    wanted = read(whole / "rounds/01/score/scored.jsonl")
    assert [r["candidates"] for r in scored] == [r["candidates"] for r in wanted]
    assert json.loads(stored.objects["bucket/round/figures.json"].data)["out"] == len(scored)

    command = ["reward", "calibrate", *config, "--calibration-set", f"{STORE}/sft.jsonl", "--model", f"{STORE}/reward"]
    command += ["--reward.score-batch-size", 8]
    assert main([*map(str, command)]) == 0
    far, near = load_model(f"{STORE}/reward"), load_model(root / "reward")
    assert far.sha256 == near.sha256 and far.extra["calibration"]["n"] == 50 != near.extra["calibration"]["n"]


def test_a_folder_that_is_kept_goes_on_after_any_refused_write_and_never_with_other_settings(cloud):
    """In a bucket it is written in its place: what an earlier result has left there must not be taken for its own."""
    folder, inputs = paths.of("gs://bucket/steps"), paths.of("gs://bucket/in.jsonl")

    def train(settings: str) -> None:
        with Step(folder, 1, AlignConfig(prompt_fraction=0.1, seed=0), settings, "train", [inputs]) as step:
            if step.done:
                return
            with step.working("run") as place:
                for name in ("config", "weights"):
                    if (place / name).exists():
                        assert (place / name).read_text() == settings
                    (place / name).write_text(settings)

    for stop in itertools.count(1):
        cloud.refuse = lambda method, name: None
        cloud.objects.clear()
        inputs.write_text("{}")
        train("old")
        writes = itertools.count(1)

        def refuse(method: str, _: str, stop: int = stop, writes: Iterator[int] = writes) -> int | None:
            return 403 if method != "GET" and next(writes) == stop else None

        cloud.refuse, refused = refuse, False
        try:
            train("new")
        except OSError as error:
            refused = paths.trouble(error) is not None
        assert refused == (next(writes) > stop)
        if (result := manifest.read(folder / "train")) is not None:
            assert cloud.objects["bucket/steps/train/run/weights"].data.decode() == result["config"]["settings"]
        cloud.refuse = lambda method, name: None
        train("new")
        names = [name for name in cloud.names("bucket/steps/train/") if name != manifest.BEGUN]
        assert names == [manifest.FILE, "run/config", "run/weights"], stop
        assert {cloud.objects[f"bucket/steps/train/run/{name}"].data for name in ("config", "weights")} == {b"new"}
        outputs = [{"path": "run/config", "bytes": 3}, {"path": "run/weights", "bytes": 3}]
        assert manifest.read(folder / "train")["outputs"] == outputs
        if not refused:
            break
    assert stop > 8


@pytest.mark.slow
def test_two_processes_go_through_a_round_in_a_bucket(stored, whole, tmp_path):
    """The processes inherit the environment by which the server is found. Sums over split rows are only close."""
    begin(STORE, "--mesh.fsdp", 4, "--align.allow-partial")
    waits = ["--hosts.barrier-timeout-s", 2000, "--hosts.stall-timeout-s", 2000, "--hosts.start-timeout-s", 2000]
    words = ["-m", "tigerjax", "align", "run", f"{STORE}/align", *waits]
    ended = processes(words, tmp_path / "two", 2)
    assert ended.codes == [0, 0], ended.errors
    far, near = paths.of(f"{STORE}/align/rounds/01"), whole / "rounds/01"
    for name in ("prompts/prompts.jsonl", "queue/queue.jsonl", "queue/key.jsonl"):
        assert (far / name).read_bytes() == (near / name).read_bytes(), name
    assert {s["state"] for s in status(far)} == {"done"}
    assert not [name for name in stored.names("bucket/round/align/") if ".work-" in name or name.endswith(".begun")]
    assert load_model(far / "train/run").step == 4
