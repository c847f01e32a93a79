"""The folder that sampling writes: whole, resumed, refused."""

import dataclasses
import json
from pathlib import Path

import pytest

from tigerjax.config import FLOAT32, SplashConfig
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import log, paths
from tigerjax.sample import engine
from tigerjax.sample.engine import Batching, SamplingConfig
from tigerjax.sample.folder import sample_file, sample_prompts

SAMPLED = SamplingConfig(n=4, max_new_tokens=12, min_new_tokens=3, context=64, seed=0)
OTHER_SEED = dataclasses.replace(SAMPLED, seed=1)
FILES = ("candidates.jsonl", "skipped.jsonl")


class Killed(Exception):
    pass


def sample(tiny, prompts, out: Path, sampling=SAMPLED, *, sha256="m", compute=FLOAT32, progress=None):
    model, batching = tiny.loaded(sha256=sha256, compute=compute), Batching(prompts=2, rows=8)
    return sample_prompts(model, prompts, out, sampling, batching=batching, progress=progress)


@pytest.fixture(scope="module")
def whole(tiny, prompts, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    figures = sample(tiny, prompts, out)
    assert (figures["prompts"], figures["skipped"], figures["candidates"]) == (7, 1, 24)
    assert sum(figures["finish"].values()) == 24 and figures["prefilled"] == 6
    return out


def test_a_run_killed_anywhere_and_resumed_gives_the_bytes_of_an_uninterrupted_one(
    tiny, prompts, whole, tmp_path
) -> None:
    for kill_after in range(1, 7):
        out = tmp_path / str(kill_after)

        def progress(done: int, _: int, at: int = kill_after) -> None:
            if done == at:
                raise Killed

        with pytest.raises(Killed):
            sample(tiny, prompts, out, progress=progress)
        assert not (out / "candidates.jsonl").exists()
        with open(out / "candidates.partial.jsonl", "ab") as file:
            file.write(b'{"prompt_id":"p3","mess')  # a line cut short by the kill
        sample(tiny, prompts, out)
        for name in FILES:
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        assert not (out / "candidates.partial.jsonl").exists()


def test_a_resumed_run_computes_only_the_prompts_that_are_missing(tiny, prompts, tmp_path) -> None:
    def progress(done: int, _: int) -> None:
        if done == 4:  # the skipped prompt and three others, in the middle of a batch of two
            raise Killed

    with pytest.raises(Killed):
        sample(tiny, prompts, tmp_path / "out", progress=progress)
    assert sample(tiny, prompts, tmp_path / "out")["prefilled"] == 3


def test_records_are_in_the_order_of_the_prompts_and_every_prompt_is_accounted_for(prompts, whole) -> None:
    kept, skipped = ([json.loads(line) for line in (whole / name).open(encoding="utf-8")] for name in FILES)
    assert [r["prompt_id"] for r in kept] == [p["prompt_id"] for p in prompts if p["prompt_id"] != "p1"]
    assert [(r["prompt_id"], r["candidates"]) for r in skipped] == [("p1", [])]
    assert "context=64" in skipped[0]["skipped"]
    assert all(len(r["candidates"]) == 4 for r in kept)


def test_a_finished_folder_is_left_alone(tiny, prompts, whole, monkeypatch) -> None:
    before = {f.name: f.read_bytes() for f in whole.iterdir()}
    monkeypatch.setattr(engine, "complete", None)  # would fail if it were called
    assert sample(tiny, prompts, whole)["candidates"] == 24
    assert {f.name: f.read_bytes() for f in whole.iterdir()} == before


def test_a_folder_with_other_samples_is_refused_by_name(tiny, prompts, whole) -> None:
    for other, message in [
        ({"sampling": OTHER_SEED}, "seed = 0, but 1"),
        ({"sha256": "x"}, "model_sha = 'm', but 'x'"),
        ({"sampling": dataclasses.replace(SAMPLED, temperature=0.5)}, r"temperature = 0\.9, but 0\.5"),
        ({"compute": dataclasses.replace(FLOAT32, quantise="int8")}, r"compute\.quantise = its default, but 'int8' is"),
        (
            {"compute": dataclasses.replace(FLOAT32, splash=SplashConfig(block_q=128))},
            r"with compute\.splash\.block_q = 512, but 128 is asked for; give another --out or remove the folder$",
        ),
    ]:
        with pytest.raises(ConfigError, match=message):
            sample(tiny, prompts, whole, **other)
    with pytest.raises(ConfigError, match="prompts_sha256"):
        sample(tiny, prompts[1:], whole)


def test_a_folder_without_a_sample_is_taken_for_other_ones(tiny, prompts, tmp_path) -> None:
    """What is refused when the model is compiled, such as kernels for TPUs, leaves a folder that holds nothing."""

    def progress(done: int, _: int) -> None:
        if done == 2:
            raise Killed

    out, kernels = tmp_path / "out", dataclasses.replace(FLOAT32, decode_kernels="on")
    with pytest.raises(ConfigError, match=r"decode_kernels=on is for TPUs"):
        sample(tiny, prompts, out, compute=kernels)
    assert "decode_kernels" in (out / "sampling.json").read_text()
    (line,) = (out / "candidates.partial.jsonl").read_text().splitlines()  # of the prompt that is too long
    assert json.loads(line)["prompt_id"] == "p1"
    with pytest.raises(Killed):
        sample(tiny, prompts, out, progress=progress)
    with pytest.raises(ConfigError, match=r"compute\.decode_kernels = its default, but 'on' is asked for"):
        sample(tiny, prompts, out, compute=kernels)


def test_an_interrupted_run_goes_on_with_another_cache_and_gives_the_same_answers(
    tiny, prompts, whole, tmp_path
) -> None:
    def progress(done: int, _: int) -> None:
        if done == 3:
            raise Killed

    out = tmp_path / "out"
    with pytest.raises(Killed):
        sample(tiny, prompts, out, progress=progress)
    assert "cache_tokens" not in (out / "sampling.json").read_text()
    figures = sample(tiny, prompts, out, compute=dataclasses.replace(FLOAT32, cache_tokens=128))
    assert figures["prefilled"] < 6 and figures["put_back"] >= 0
    for ours, theirs in zip((out / FILES[0]).open("rb"), (whole / FILES[0]).open("rb"), strict=True):
        new, old = json.loads(ours), json.loads(theirs)
        for one, other in zip(new["candidates"], old["candidates"], strict=True):  # pages are added in another order
            assert one.pop("logprob") == pytest.approx(other.pop("logprob"), rel=1e-5)
        assert new == old


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a"}, r"asked\.jsonl.*2 has prompt_id None; give every prompt a non-empty string"),
        ({"prompt_id": "p", "text": "a"}, r"asked\.jsonl.*2 repeats prompt_id 'p' of .*asked\.jsonl.*1; ids"),
        ({"prompt_id": "q"}, r"asked\.jsonl.*2 \('q'\) needs messages that end with the user, or a text"),
    ],
)
def test_a_prompt_that_is_wrong_is_named_by_its_line(tiny, tmp_path, line, message) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps(one) + "\n" for one in ({"prompt_id": "p", "text": "a"}, line)))
    with pytest.raises(DataError, match=message):
        sample_file(tiny.loaded(), asked, tmp_path / "out", SAMPLED, batching=Batching(prompts=2, rows=8))
    assert not (tmp_path / "out").exists()


def test_a_broken_line_inside_the_partial_file_is_named(tiny, prompts, tmp_path) -> None:
    with pytest.raises(Killed):
        sample(tiny, prompts, tmp_path, progress=lambda *_: (_ for _ in ()).throw(Killed()))
    partial = tmp_path / "candidates.partial.jsonl"
    partial.write_bytes(partial.read_bytes() + b"{]\n")
    with pytest.raises(DataError, match=r"candidates\.partial\.jsonl:2: broken JSON"):
        sample(tiny, prompts, tmp_path)


def test_in_a_bucket_a_killed_run_goes_on_and_a_refused_write_loses_no_answer(tiny, prompts, whole, cloud) -> None:
    def progress(done: int, _: int) -> None:
        if done == 4:
            raise Killed

    out = "gs://bucket/samples"
    with pytest.raises(Killed):
        sample(tiny, prompts, out, progress=progress)
    assert cloud.names("bucket/samples/") == ["candidates.partial.jsonl", "sampling.json"]
    cloud.refuse = lambda method, name: 403 if method == "POST" and name.endswith("/candidates.jsonl") else None
    with pytest.raises(OSError, match="Forbidden") as caught:
        sample(tiny, prompts, out)
    assert paths.trouble(caught.value) is not None and "bucket/samples/candidates.jsonl" not in cloud.objects
    cloud.refuse = lambda method, name: None
    assert sample(tiny, prompts, out)["prefilled"] == 0
    assert cloud.names("bucket/samples/") == ["candidates.jsonl", "manifest.json", "sampling.json", "skipped.jsonl"]
    for name in FILES:
        assert cloud.objects[f"bucket/samples/{name}"].data == (whole / name).read_bytes()
    with pytest.raises(ConfigError, match=r"gs://bucket/samples: holds samples with seed = 0"):
        sample(tiny, prompts, out, OTHER_SEED)


def test_in_a_bucket_answers_are_written_every_half_minute(tiny, prompts, cloud, monkeypatch) -> None:
    monkeypatch.setattr(log, "LAG_S", 0.0)
    seen = []

    def progress(done: int, _: int) -> None:
        partial = paths.whole_lines(paths.of("gs://bucket/often/candidates.partial.jsonl"))
        seen.append((len(partial), done))

    sample(tiny, prompts, "gs://bucket/often", progress=progress)
    assert all(there == done for there, done in seen) and len(seen) == 7
