"""Stages on a real Spark cluster: a master and two workers on the loopback of this machine."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import spark_cluster
import tasks
from stage_runs import FILES, STAGES, assert_changed, assert_same, documents, needs, stages

from tigerjax.command.cli import main
from tigerjax.errors import ConfigError, DataError, WorkerLost
from tigerjax.stages import spark
from tigerjax.stages.runner import Runner

needs_spark = pytest.mark.skipif(
    bool(spark_cluster.MISSING),
    reason=f"{' and '.join(spark_cluster.MISSING)} not installed here: pip install 'tigerjax[spark]', and Java 17",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = spark_cluster.started(tmp_path_factory.mktemp("spark"))
    spark.EXECUTOR_S = 90.0
    before = os.environ.get("SPARK_LOCAL_IP")
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    yield made
    made.end()
    os.environ.pop("SPARK_LOCAL_IP")
    if before is not None:
        os.environ["SPARK_LOCAL_IP"] = before


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return documents(tmp_path_factory.mktemp("corpus"))


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.slow
@needs_spark
def test_a_stage_on_spark_writes_the_bytes_of_local(cluster, corpus, stage, tmp_path, monkeypatch, capsys):
    needs(stage)
    monkeypatch.chdir(tmp_path)
    words = [*stages(corpus)[stage], "--out"]
    assert main([*words, "local"]) == 0
    assert_changed(tmp_path / "local")
    assert main([*words, "spark", "--runner", cluster.url]) == 0
    assert_same(tmp_path / "local", tmp_path / "spark")
    assert "mb_per_s_per_core" in json.loads(Path("spark/manifest.json").read_text())["figures"]


@pytest.mark.slow
@needs_spark
def test_a_tokenizer_is_measured_and_checked_on_spark_as_here(cluster, corpus, work, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts = ["--text", *map(str, sorted(corpus.glob("zh-*.jsonl")))]
    for name, more in (("stats", []), ("verify", ["--base", str(work / "base_tokenizer")])):
        words = ["tokenizer", name, str(work / "tokenizer"), *more, *texts]
        assert main([*words, "--json", f"{name}_here.json"]) == main([*words, "--workers", "2"]) == 0
        assert main([*words, "--json", f"{name}_spark.json", "--runner", cluster.url]) == 0
        assert Path(f"{name}_here.json").read_bytes() == Path(f"{name}_spark.json").read_bytes()


@pytest.mark.slow
@needs_spark
@pytest.mark.parametrize("kind", ["documents", "sft"])
def test_rows_are_cached_on_spark_byte_for_byte(cluster, work, tmp_path, kind):
    from tigerjax.data import mixture, row_files
    from tigerjax.data.caching import Caching

    if kind == "sft":
        source = mixture.Source(work / "sft" / "sft.jsonl")
        mixture.sft("on_spark_sft", tokenizer=work / "tokenizer", examples=source)
    else:
        source = mixture.Source((work / "pretrain" / "corpus_zh.jsonl", work / "pretrain" / "corpus_en.jsonl"))
        mixture.pretraining("on_spark_documents", tokenizer=work / "tokenizer", sources={"text": source})
    made = []
    for runner in ("local", cluster.url):
        how = Caching(tokenizer=work / "tokenizer", cache_dir=tmp_path / runner[:5], seq_len=64, runner=runner)
        made.append(mixture.cache(f"on_spark_{kind}", how))
    for task, folder in made[0].items():
        name = row_files.name(0)
        assert (folder / name).read_bytes() == (made[1][task] / name).read_bytes()


@pytest.mark.slow
@needs_spark
def test_a_bad_record_is_the_one_line_of_local(cluster, corpus, tmp_path, capsys):
    (tmp_path / "bad.jsonl").write_text('{"id": "x", "text": "one"}\n{"id": "y", "text": "broken\n')
    said = {}
    for runner in ("local", cluster.url):
        words = ["data", "dedup", "exact", "--input", str(corpus / "en-0.jsonl"), str(tmp_path / "bad.jsonl")]
        assert main([*words, "--out", str(tmp_path / "out"), "--runner", runner]) == 3
        said[runner] = capsys.readouterr().err.splitlines()[-1]
        assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    assert "bad.jsonl:2: broken JSON" in said["local"] and said[cluster.url] == said["local"]


@pytest.mark.slow
@needs_spark
def test_what_goes_wrong_in_a_task_is_told_as_local_tells_it(cluster, tmp_path):
    with Runner(cluster.url) as runner:
        assert runner.each(tasks.squared, range(5), tmp_path, "scan") == [{"squared": n * n} for n in range(5)]
        assert runner.cores() == 2
        with pytest.raises(DataError, match="item 3 is bad"):
            runner.each(tasks.refused, range(6), tmp_path, "bad")
        with pytest.raises(OSError, match="No space left"):
            runner.each(tasks.full, range(3), tmp_path, "full")
        with pytest.raises(RuntimeError, match=r"step bug: .* a task ended with ZeroDivisionError"):
            runner.each(tasks.buggy, range(3), tmp_path, "bug")
        with pytest.raises(WorkerLost, match=r"step lost: runner .*; nothing was written: see to its workers"):
            runner.each(tasks.always_lost, range(1), tmp_path, "lost")
        assert runner.each(tasks.squared, [7], tmp_path, "after") == [{"squared": 49}]
    assert not list((tmp_path / "results").iterdir())


@pytest.mark.slow
@needs_spark
def test_workers_without_our_code_are_one_line(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("PYSPARK_PYTHON", "/no/such/python")
    with pytest.raises(ConfigError, match=r"no program /no/such/python; install the same Python"):
        with Runner(cluster.url) as runner:
            runner.each(tasks.squared, range(2), tmp_path, "scan")


@pytest.mark.slow
@needs_spark
def test_a_worker_that_is_killed_in_the_middle_changes_no_byte(cluster, corpus, tmp_path):
    """It dies with its executor and its tasks as soon as the first part is written; the other one does its work."""
    words = [*stages(corpus)["near"], "--out"]
    assert main([*words, str(tmp_path / "local")]) == 0
    command = [sys.executable, "-m", "tigerjax", *words, str(tmp_path / "spark"), "--runner", cluster.url]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(spark_cluster.ROOT), os.environ.get("PYTHONPATH", "")])}
    stage = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    try:
        while not (made := list(tmp_path.glob("spark.partial*/work-*/part-*.npz"))) and stage.poll() is None:
            time.sleep(0.02)
        cluster.kill_worker(0)
        assert 0 < len(made) < 2 * FILES, "it was to be killed in the middle"
        _, said = stage.communicate(timeout=300)
    finally:
        stage.kill()
    cluster.add_worker(2)  # for the tests that follow
    assert stage.returncode == 0, said
    assert_same(tmp_path / "local", tmp_path / "spark")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("spark://host", "'spark://host' is no master of Spark; give one as spark://HOST:PORT, yarn, k8s://HOST:PORT"),
        ("spark", "'spark' is no master"),
        ("k8s://", "is no master"),
        ("spark://a:7077,b", "is no master"),
        ("spark://a:7077 --cores 4", "'--cores 4' is no setting of Spark; write each as in"),
        ("yarn --conf", "'--conf' is no setting"),
        ("yarn --conf spark.cores.max", "is no setting"),
        ("yarn --conf cores=2", "'--conf cores=2' is no setting"),
    ],
)
def test_words_that_are_no_master_are_refused_before_any_work(name, says):
    with pytest.raises(ConfigError, match=says):
        Runner(name)


def test_settings_and_masters_are_those_of_spark_submit():
    words = ["--conf", "spark.cores.max=64", "--conf", "spark.executorEnv.A=b c=d"]
    assert spark._settings("x", words) == {"spark.cores.max": "64", "spark.executorEnv.A": "b c=d"}
    assert spark._addresses("x", "spark://a:7077,[::1]:7078") == [("a", 7077), ("::1", 7078)]
    assert spark._addresses("x", "yarn") == spark._addresses("x", "k8s://https://a:6443") == []


def test_without_pyspark_and_with_workers_the_runner_is_refused(monkeypatch):
    with pytest.raises(ConfigError, match=r"workers=4 counts processes of runner 'local'.*spark.cores.max"):
        Runner("spark://host:7077", 4)
    monkeypatch.setattr(spark.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs PySpark: pip install 'tigerjax\[spark\]'"):
        Runner("yarn")


def test_local_takes_no_options():
    with pytest.raises(ConfigError, match="local has no options; give the number of its processes as --workers"):
        Runner("local 4")


def test_a_master_that_does_not_answer_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(spark.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "pyspark", type(sys)("pyspark"))
    for name in ("SparkConf", "SparkContext"):
        setattr(sys.modules["pyspark"], name, None)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(ConfigError, match="no master answers there; start it"):
            with Runner(f"spark://127.0.0.1:{port}") as runner:
                runner.each(tasks.squared, range(2), tmp_path, "scan")
