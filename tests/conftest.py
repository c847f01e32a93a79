"""Set before JAX is imported: 8 fake CPU devices, full-precision matmuls, a compilation cache, quiet TensorFlow."""

import gc
import importlib.metadata
import importlib.util
import os
import tempfile
from pathlib import Path

import pytest
from bucket import served

EMBEDDED = Path(__file__).resolve().parents[1] / "data_mixtures" / "embedded"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tiny functions run once or twice, so the time of the compiler is what counts. It takes a seventh of the time without
# LLVM's optimisations and without the emitters of fusions, which optimise by themselves; one alone gains little. jaxlib
# 0.12 has no way without these emitters. There LLVM's first level takes a third to two thirds of the time.
EMITTERS_ALONE = tuple(map(int, importlib.metadata.version("jaxlib").split(".")[:2])) > (0, 10)
FAST = (
    "--xla_backend_optimization_level=1"
    if EMITTERS_ALONE
    else "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + f" --xla_force_host_platform_device_count=8 --xla_cpu_multi_thread_eigen=false {FAST}"
    # Parts of a program that compile side by side cost an eighth more, and both cores are busy already.
    + " --xla_cpu_parallel_codegen_split_count=1"
)
os.environ["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Most of the suite's time is XLA compiling the same tiny functions: the workers share what is compiled.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


PEERS = ("torch", "transformers")
PEERS_ABSENT = "not installed here"


LONGEST = ("test_tpu_step.py", "test_several_hosts.py", "test_several.py", "test_examples.py", "test_serving.py")
"""Files of a minute and more. They come first, so that no worker waits at the end for another one's last file."""


def pytest_collection_modifyitems(items):
    """Orders the files. Skips what compares with the peers where they are not installed: PEERS, and those that the
    marker names."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if (marker := item.get_closest_marker("peers")) is not None:
            absent = [name for name in (*PEERS, *marker.args) if not importlib.util.find_spec(name)]
            if absent:
                reason = f"{' and '.join(absent)} {PEERS_ABSENT}: make peers"
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish():
    """What is imported by now lives to the end: the garbage collector need not go through it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 10, 10)


def pytest_terminal_summary(terminalreporter):
    """Says how many tests compared with nothing."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    reasons = [text.partition("Skipped: ")[2].strip("')") for text in skipped if PEERS_ABSENT in text]
    for reason in sorted(set(reasons)):
        terminalreporter.write_line(f"{reasons.count(reason)} tests were compared with nothing: {reason}")


@pytest.fixture(scope="session", autouse=True)
def unhurried():
    """On a busy machine short work takes long enough to show its progress, in a line beside those that a test counts.
    Commands that run inside the tests show none. Gives the times that users have, by name, to tests of progress."""
    from tigerjax.command import progress

    real = {name: getattr(progress, name) for name in ("PLAIN_SECONDS", "SHORT_SECONDS")}
    with pytest.MonkeyPatch.context() as patch:
        for name in real:
            patch.setattr(progress, name, 3600.0)
        yield real


@pytest.fixture
def cloud(tmp_path, monkeypatch):
    """A stand-in for Cloud Storage, empty; nothing of a test may end in a folder of the disk named gs:."""
    monkeypatch.chdir(tmp_path)
    with served() as bucket:
        yield bucket
    assert not list(tmp_path.glob("gs:*"))


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    """The folder of temporary files, empty; copies of a bucket's objects go into another one of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path / "tmp"


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    """A folder as the quick start leaves it before training: tokenizers, clean documents, SFT examples."""
    from tigerjax import records
    from tigerjax.files import jsonl
    from tigerjax.text.clean import clean_files
    from tigerjax.text.dedup import against_sft_files, dedup_files
    from tigerjax.tokenizer.extend import extend
    from tigerjax.tokenizer.train import train_model

    folder = tmp_path_factory.mktemp("quickstart")
    raw = folder / "raw"
    raw.mkdir()
    for lang in ("en", "zh"):
        documents = list(records.documents(EMBEDDED / f"corpus_{lang}.jsonl"))
        jsonl.write_jsonl(raw / f"corpus_{lang}.jsonl", documents[::4])  # a part of it, for speed
    (folder / "sft").mkdir()
    examples = list(records.sft_examples(EMBEDDED / "sft.jsonl"))
    jsonl.write_jsonl(folder / "sft" / "sft.jsonl", examples[::8])
    names = ("corpus_en.jsonl", "corpus_zh.jsonl")
    clean_files([raw / n for n in names], folder / "cleaned")
    dedup_files("near", [folder / "cleaned" / n for n in names], folder / "dedup")
    against_sft_files([folder / "dedup" / n for n in names], [folder / "sft" / "sft.jsonl"], folder / "pretrain")
    train_model([raw / "corpus_en.jsonl"], 600, folder / "base_tokenizer")
    train_model([raw / "corpus_zh.jsonl"], 2600, folder / "zh_bpe")
    extend(folder / "base_tokenizer", folder / "zh_bpe", 1200, folder / "tokenizer")
    return folder


@pytest.fixture(scope="session")
def corpus():
    """The embedded documents by language."""
    from tigerjax import records

    return {lang: list(records.documents(EMBEDDED / f"corpus_{lang}.jsonl")) for lang in ("en", "zh")}
