"""Who tells of its progress: how far, of how much, and exactly once that it is over."""

import contextlib
import re
import time
from pathlib import Path

import pytest

from tigerjax.command import cli, progress
from tigerjax.files import jsonl
from tigerjax.stages.runner import Runner
from tigerjax.text.clean import clean_files
from tigerjax.text.dedup import dedup_files
from tigerjax.tokenizer.sample import read_all, sample
from tigerjax.tokenizer.stats import stats
from tigerjax.tokenizer.train import train_model
from tigerjax.tokenizer.verify import verify

EMBEDDED = Path(__file__).resolve().parents[2] / "data_mixtures" / "embedded"


class Told:
    """A progress as commands hand it in, which keeps the calls of every `what`."""

    def __init__(self):
        self.calls: dict[str, list[tuple[int, int]]] = {}

    def __call__(self, what, unit=""):
        mine = self.calls.setdefault(what, [])
        return lambda done, total: mine.append((done, total))

    def whole(self, what: str) -> int:
        """What was done in all: it only grew, and the end was said last and once."""
        calls = self.calls[what]
        total = calls[-1][1]
        assert [all_ for _, all_ in calls] == [total] * len(calls)
        done = [done for done, _ in calls]
        assert done == sorted(done) and done[-1] == total and done.count(total) == 1
        return total


@pytest.fixture
def texts(tmp_path):
    documents = [{"id": f"d{i}", "text": f"春眠不觉晓 {i} and the tiger {i * i}"} for i in range(300)]
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.zst", tmp_path / "c.txt"]
    for path in paths[:2]:
        jsonl.write_jsonl(path, documents)
    paths[2].write_text("".join(f"line {i}\n" for i in range(50)))
    return paths


def test_files_are_told_of_by_their_bytes_on_the_disk(texts):
    told = Told()
    assert len(list(read_all(texts, told("read")))) == 650
    assert told.whole("read") == sum(path.stat().st_size for path in texts)
    assert len(told.calls["read"]) == 651 and len({done for done, _ in told.calls["read"]}) > 300


def test_every_step_of_the_tokenizer_commands_tells(texts, tmp_path):
    told, phases = Told(), []

    @contextlib.contextmanager
    def elapsed(what):
        phases.append(what)
        yield
        phases.append("over")

    size = sum(path.stat().st_size for path in texts)
    options = {"fraction": 1.0, "seed": 0, "min_sample_bytes": 1, "max_sentences": 100}
    sample(inputs=texts, out=tmp_path / "sample", runner=Runner(progress=told), **options)
    assert told.whole("hashed") == size
    assert told.whole("drawn from") == told.whole("thinned") == len(texts)  # a block each
    told = Told()
    train_model(texts, 320, tmp_path / "bpe", progress=told, elapsed=elapsed)
    assert told.whole("read") == size and phases == ["SentencePiece trains 320 pieces", "over"]
    stats(tmp_path / "bpe", texts, Runner(progress=told))
    verify(tmp_path / "bpe", base=tmp_path / "bpe", texts=texts, runner=Runner(progress=told))
    assert told.whole("measured") == told.whole("checked") == len(texts)


def test_an_interrupted_training_ends_its_phase(texts, tmp_path):
    phases = []

    @contextlib.contextmanager
    def elapsed(what):
        try:
            yield
        finally:
            phases.append("over")

    with pytest.raises(ValueError, match="is too small for the characters"):
        train_model(texts, 260, tmp_path / "bpe", progress=Told(), elapsed=elapsed)
    assert phases == ["over"]


def test_cleaning_and_deduplication_tell_of_hashing_writing_and_clusters(texts, tmp_path):
    told, inputs = Told(), texts[:1]
    clean_files(inputs, tmp_path / "clean", runner=Runner(progress=told))
    assert told.whole("hashed") == inputs[0].stat().st_size and told.whole("write") == 1
    told = Told()
    doubled = tmp_path / "doubled.jsonl"
    jsonl.write_jsonl(doubled, [{"id": f"{i}", "text": "the same text"} for i in range(7)])
    dedup_files("exact", [doubled], tmp_path / "dedup", runner=Runner(progress=told))
    assert told.whole("choose") == 16 and told.whole("hashed") == doubled.stat().st_size


def test_verifying_a_checkpoint_tells_of_the_bytes_read(tmp_path, monkeypatch, capsys):
    from tigerjax.checkpoint import files
    from tigerjax.command import checkpoints

    told, partial = Told(), tmp_path / "checkpoints" / "3.partial"
    for room in ("weights", "opt_state"):
        (partial / room).mkdir(parents=True)
        (partial / room / "data").write_bytes(b"x" * 1000)
    meta = {"kind": "llama", "model": {}, "step": 3}
    files.publish(partial, tmp_path / "checkpoints" / "3", meta, files.checksums(partial))
    monkeypatch.setattr(checkpoints, "show_progress", told)
    assert cli.main(["checkpoint", "verify", str(tmp_path)]) == 0
    assert told.whole("step 3: read") == 2000


def test_elapsed_time_is_said_of_long_work_and_nothing_of_short(monkeypatch, capsys):
    with progress.show_elapsed("short"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.01)
    monkeypatch.setattr(progress, "SHORT_SECONDS", 0.0)
    shown = ""
    with pytest.raises(KeyError), progress.show_elapsed("compiling"):
        while "\n" not in shown:  # for as long as it takes: the machine may be busy
            time.sleep(0.01)
            shown += capsys.readouterr().err
        raise KeyError("also when the work fails")
    lines = (shown + capsys.readouterr().err).splitlines()
    assert all(re.fullmatch(r"compiling… \d+ s", line) for line in lines[:-1])
    assert re.fullmatch(r"compiling… done in \d+ s", lines[-1])
