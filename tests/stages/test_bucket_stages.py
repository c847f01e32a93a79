"""Every command on text with gs:// in and out writes what it writes on a disk, on a stand-in for the service."""

import gzip
import json
import shlex
import shutil

import pytest
from gcsfs.retry import HttpError

from tigerjax import records
from tigerjax.command.cli import main
from tigerjax.data import mixture
from tigerjax.data.caching import Caching
from tigerjax.errors import BucketError, BucketRefused, DataError
from tigerjax.files import jsonl, manifest, paths
from tigerjax.records import block
from tigerjax.stages.runner import Runner

FAR = "gs://bucket/text"
STAGES = {
    "clean": "data clean --input {0}/raw/*.jsonl --on language repetition --sensitive {0}/words.txt",
    "exact": "data dedup exact --input {0}/raw/corpus_zh.jsonl {0}/raw/corpus_en.jsonl",
    "near": "data dedup near --input {0}/raw/corpus_zh.jsonl.zst --shards 3",
    "against": "data dedup against-sft --docs {0}/raw/corpus_?h.jsonl --sft {0}/sft/sft.jsonl",
    "decontaminated": "data decontaminate --docs {0}/raw/corpus_en.jsonl --evaluation-sets {0}/csv.csv {0}/lines.jsonl",
    "sample": "tokenizer sample --input {0}/raw/corpus_*.jsonl --fraction 0.5 --min-sample-bytes 100",
    "bpe": "tokenizer train --input {0}/raw/corpus_en.jsonl --vocab-size 600",
    "extended": "tokenizer extend --base {0}/base_tokenizer --new {0}/zh_bpe/tokenizer.model --vocab-size 1200",
}


@pytest.fixture(scope="module")
def near(work, tmp_path_factory):
    """The session's files, and what the stages above ask for besides."""
    folder = tmp_path_factory.mktemp("near") / "files"
    for name in ("raw", "sft", "base_tokenizer", "zh_bpe", "tokenizer"):
        shutil.copytree(work / name, folder / name)
    jsonl.write_jsonl(folder / "raw" / "corpus_zh.jsonl.zst", records.documents(folder / "raw" / "corpus_zh.jsonl"))
    questions = [record["text"][:200] for record in records.documents(folder / "raw" / "corpus_en.jsonl")]
    (folder / "csv.csv").write_text(f'\ufeffid,question\r\n1,"{questions[0]}"\r\n2,"{questions[1]}"\r\n')
    (folder / "lines.jsonl").write_text(json.dumps({"question": questions[2]}) + "\n")
    (folder / "words.txt").write_bytes("\ufeff不良\r\nbadword\r\n".encode())
    return folder


@pytest.fixture
def cloud(cloud, near, scratch):
    """The same in a bucket; nothing may be left on the disk but the cache, and what Beam and TensorFlow leave."""
    paths.upload(near, paths.of(FAR))
    yield cloud
    assert not [path for path in scratch.iterdir() if not path.name.startswith(("beam-", "tmp", "__auto"))]


def run(words, root, *more):
    return main([*shlex.split(words.format(root)), *map(str, more)])


def content(folder):
    """Of the files that a stage wrote, by name."""
    folder = paths.of(folder)
    return {name: (folder / name).read_bytes() for name in paths.sizes(folder) if name != manifest.FILE}


def same_stage(one, other):
    one, other = manifest.read(one), manifest.read(other)
    for key in ("config", "outputs", "counts"):
        assert one[key] == other[key]
    assert [i["sha256"] for i in one["inputs"]] == [i["sha256"] for i in other["inputs"]]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_writes_into_a_bucket_what_it_writes_on_a_disk(cloud, near, tmp_path, stage):
    assert run(STAGES[stage], near, "--out", tmp_path / "out") == 0
    assert run(STAGES[stage], FAR, "--out", f"{FAR}/out/{stage}", "--json", f"{FAR}/{stage}.json") == 0
    assert content(f"{FAR}/out/{stage}") == content(tmp_path / "out")
    same_stage(f"{FAR}/out/{stage}", tmp_path / "out")
    assert json.loads(cloud.objects[f"bucket/text/{stage}.json"].data)
    before = set(cloud.objects)
    assert run(STAGES[stage], FAR, "--out", f"{FAR}/out/{stage}") == 0  # done already
    assert set(cloud.objects) == before and not (tmp_path / "cache").exists()


def test_measures_of_a_tokenizer_are_those_of_the_disk(cloud, near, tmp_path):
    for words in ("verify {0}/tokenizer --base {0}/base_tokenizer", "stats {0}/tokenizer"):
        texts = "{0}/raw/corpus_en.jsonl {0}/raw/corpus_zh.jsonl"
        for root, out in ((near, tmp_path / "near.json"), (FAR, f"{FAR}/far.json")):
            assert run(f"tokenizer {words} --text {texts}", root, "--json", out) == 0
        assert json.loads((tmp_path / "near.json").read_text()) == json.loads(
            cloud.objects["bucket/text/far.json"].data
        )


def test_worker_processes_read_their_blocks_of_a_file_in_a_bucket(cloud, near, tmp_path, monkeypatch):
    monkeypatch.setattr(block, "BLOCK_BYTES", 12_000)
    monkeypatch.setattr(block, "SCAN_BYTES", 2_000)
    files = [f"{FAR}/raw/corpus_zh.jsonl", f"{FAR}/raw/corpus_en.jsonl"]
    assert len(records.blocks(records.expand(files))) > 4
    assert run(STAGES["exact"], near, "--out", tmp_path / "out") == 0
    assert run(STAGES["exact"], FAR, "--out", f"{FAR}/out/exact", "--workers", 2) == 0
    assert content(f"{FAR}/out/exact") == content(tmp_path / "out")


@pytest.mark.parametrize("name", ["local", "DirectRunner"])
def test_what_a_bucket_says_to_a_worker_is_what_the_command_says(cloud, near, tmp_path, name):
    files = records.expand(f"{FAR}/raw/*.jsonl")
    with Runner(name, workers=2 if name == "local" else 1) as runner:
        sums = runner.each(manifest.sha256, files, tmp_path / "work", "sum")
        assert sums == [manifest.sha256(near / "raw" / path.name) for path in files]
        cloud.refuse = lambda method, name: 403 if name.endswith("zh.jsonl") else None
        with pytest.raises(BucketRefused, match="the bucket refused: Forbidden"):
            runner.each(manifest.sha256, files, tmp_path / "work", "again")


def test_an_outage_is_told_as_one_and_a_failure_of_ours_as_it_is(cloud):
    assert paths.names(paths.of(FAR))  # a client is there
    with pytest.raises(BucketError, match="did not answer: busy, 503") as caught, paths.bucket_errors():
        raise HttpError({"code": 503, "message": "busy"})
    assert caught.value.exit_code == 1
    with pytest.raises(DataError, match="UNAVAILABLE"), paths.bucket_errors():
        raise DataError("a record that holds UNAVAILABLE")


def test_an_upload_that_is_cut_short_is_no_result_and_is_done_again(cloud, near, tmp_path, capsys):
    out = f"{FAR}/out/clean"
    for broken in ("report.html", "manifest.json"):
        cloud.refuse = lambda method, name, end=broken: 403 if method == "POST" and name.endswith(end) else None
        capsys.readouterr()
        assert run(STAGES["clean"], FAR, "--out", out) == 3
        said = capsys.readouterr().err
        assert said.startswith("tigerjax: the bucket refused: ") and said.count("\n") == 1
        assert manifest.read(out) is None and cloud.names("bucket/text/out/clean/")
    cloud.refuse = lambda method, name: None
    assert run(STAGES["clean"], FAR, "--out", out) == 0
    assert run(STAGES["clean"], near, "--out", tmp_path / "out") == 0
    assert content(out) == content(tmp_path / "out")
    cloud.put("bucket/text/mine/notes.txt", b"mine")
    assert run(STAGES["clean"], FAR, "--out", f"{FAR}/mine") == 2
    assert cloud.names("bucket/text/mine/") == ["notes.txt"]


STATS = "tokenizer stats {0}/tokenizer --text {0}/raw/corpus_en.jsonl"


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (STAGES["clean"] + " --out {0}/out", ""),
        (STAGES["clean"] + " --out {0}/out", "corpus_zh.jsonl"),
        (STAGES["clean"] + " --out {0}/out", "words.txt"),
        (STAGES["near"] + " --out {0}/out", ".zst"),
        (STAGES["decontaminated"] + " --out {0}/out", "csv.csv"),
        (STAGES["bpe"] + " --out {0}/out", "corpus_en.jsonl"),
        (STATS, "corpus_en.jsonl"),
        (STATS, "tokenizer.model"),
    ],
)
def test_a_bucket_that_refuses_is_never_taken_for_bad_data(cloud, words, refused, capsys):
    cloud.refuse = lambda method, name: 403 if name.endswith(refused) else None
    assert run(words, FAR) == 3
    said = capsys.readouterr().err
    assert said.startswith("tigerjax: the bucket refused: ") and said.count("\n") == 1
    assert not cloud.names("bucket/text/out/")


def test_a_dry_run_reads_patterns_and_writes_nothing(cloud, capsys):
    before = set(cloud.objects)
    assert run(STAGES["clean"], FAR, "--out", f"{FAR}/out", "--dry-run") == 0
    said = capsys.readouterr().out
    assert f"reads   {FAR}/raw/*.jsonl (" in said and f"writes  {FAR}/out (new)" in said
    assert set(cloud.objects) == before
    assert run(STAGES["clean"], "gs://bucket/absent", "--out", f"{FAR}/out", "--dry-run") == 3
    assert "gs://bucket/absent/raw/*.jsonl: input does not exist" in capsys.readouterr().err


@pytest.fixture
def kinds(cloud, near, tmp_path):
    """One set of documents in every format; the command makes the TFDS dataset in the bucket."""
    import pyarrow as pa
    import pyarrow.parquet
    from array_record.python import array_record_module

    from tigerjax.records.tf import start

    tf, _ = start()
    given = [{"id": str(n), "text": f"第{n}章 text number {n}. " * 9, "source": "", "lang": "zh"} for n in range(12)]
    lines = [json.dumps(record, ensure_ascii=False).encode() for record in given]
    cloud.put("bucket/text/kinds/docs.jsonl", b"\n".join(lines) + b"\n")
    with tf.io.TFRecordWriter(str(tmp_path / "docs.tfrecord")) as writer:
        for line in lines:
            writer.write(line)
    array = array_record_module.ArrayRecordWriter(str(tmp_path / "docs.array_record"), "group_size:1")
    for line in lines:
        array.write(line)
    array.close()
    table = pa.Table.from_pylist(given)
    pa.parquet.write_table(table, tmp_path / "docs.parquet", row_group_size=5)
    with pa.OSFile(str(tmp_path / "docs.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    for name in ("docs.tfrecord", "docs.array_record", "docs.parquet", "docs.arrow"):
        cloud.put(f"bucket/text/kinds/{name}", (tmp_path / name).read_bytes())
    cloud.put("bucket/text/kinds/docs.json", json.dumps(given).encode())
    cloud.put("bucket/text/kinds/docs.jsonl.gz", gzip.compress(b"\n".join(lines)))
    for split in ("train", "test"):
        cloud.put(f"bucket/text/kinds/saved/{split}/data-00000-of-00001.arrow", (tmp_path / "docs.arrow").read_bytes())
        state = b'{"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}'
        cloud.put(f"bucket/text/kinds/saved/{split}/state.json", state)
    cloud.put("bucket/text/kinds/saved/dataset_dict.json", b'{"splits": ["train", "test"]}')
    assert run("data tfds --input {0}/kinds/docs.jsonl --name docs --out {0}/tfds", FAR) == 0
    return given


def test_records_of_every_kind_of_file_are_copied_once_and_read(cloud, kinds, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", f"{FAR}/tfds")
    places = {
        f"{FAR}/kinds/docs.jsonl": False,
        f"{FAR}/kinds/*.tfrecord": True,
        f"{FAR}/kinds/docs.array_record": True,
        f"{FAR}/kinds/docs.json": False,
        f"{FAR}/kinds/docs.jsonl.gz": False,
        f"{FAR}/kinds/docs.parquet": True,
        f"{FAR}/kinds/docs.arrow": True,
        f"{FAR}/kinds/saved": True,
        f"{FAR}/kinds/saved/test": True,
        f"{FAR}/tfds/docs/1.0.0": True,
        "tfds:docs": False,  # by then it is there
    }

    def copies():
        return {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}

    for place, copied in places.items():
        before = copies()
        assert list(records.documents(place)) == kinds, place
        after = copies()
        assert (len(after) > len(before)) == copied, place
        assert list(records.documents(place)) == kinds and copies() == after, place
    lines = cloud.objects["bucket/text/kinds/docs.array_record"].data
    cloud.put("bucket/text/kinds/docs.tfrecord", cloud.objects["bucket/text/kinds/docs.tfrecord"].data[:-9])
    with pytest.raises(DataError, match=r"gs://bucket/text/kinds/docs\.tfrecord: not a whole TFRecord file"):
        list(records.documents(f"{FAR}/kinds/docs.tfrecord"))  # the new one, not the copy of the old
    cloud.put("bucket/text/kinds/docs.array_record", lines[: len(lines) // 2])
    with pytest.raises(DataError, match=r"gs://bucket/text/kinds/docs\.array_record: not a whole ArrayRecord file"):
        list(records.documents(f"{FAR}/kinds/docs.array_record"))
    cloud.refuse = lambda method, name: 403
    for place in list(places)[:-1]:
        with pytest.raises(BucketRefused), paths.bucket_errors():
            list(records.documents(place))
    with pytest.raises(BucketRefused):
        list(jsonl.read_jsonl(f"{FAR}/kinds/docs.jsonl"))


def show(name, source, folder, out):
    """`data stats` and `data inspect` of a mixture of one source."""
    mixture.pretraining(name, tokenizer=f"{FAR}/tokenizer", sources={"docs": mixture.Source(source)})
    words = f"{name} --seq-len 64 --modules json --cache-dir {folder}"  # registered above: any module will do
    assert main(shlex.split(f"data stats {words} --json {out}.json")) == 0
    assert main(shlex.split(f"data inspect {words} --rows 3 --out {out}.html")) == 0
    return [(paths.of(f"{out}.{end}")).read_bytes() for end in ("json", "html")]


def test_statistics_and_the_page_of_a_mixture_of_every_kind_are_those_of_the_disk(cloud, kinds, tmp_path):
    disk = show("kinds", tmp_path / "docs.tfrecord", tmp_path / "rows", tmp_path / "near")
    for n, source in enumerate(("kinds/docs.array_record", "tfds/docs/1.0.0")):
        assert show("kinds", f"{FAR}/{source}", f"{FAR}/rows{n}", f"{FAR}/far{n}") == disk, source


def test_beam_makes_the_same_rows_of_files_in_a_bucket(cloud, kinds, tmp_path):
    tokenizer, rows = f"{FAR}/tokenizer", {}
    for place in ("kinds/docs.jsonl", "kinds/docs.tfrecord"):
        mixture.pretraining("beamed", tokenizer=tokenizer, sources={"docs": mixture.Source(f"{FAR}/{place}")})
        (near,) = mixture.cache(
            "beamed", Caching(tokenizer=tokenizer, cache_dir=tmp_path / "rows", seq_len=64)
        ).values()
        (far,) = mixture.cache(
            "beamed", Caching(tokenizer=tokenizer, cache_dir=f"{FAR}/rows/{place}", seq_len=64, runner="DirectRunner")
        ).values()
        rows[place] = content(far)
        assert rows[place] == content(near)


@pytest.mark.parametrize(
    ("runner", "module", "last"), [("local", manifest, "Stage"), ("DirectRunner", records, "blocks")]
)
def test_a_bucket_that_refuses_while_rows_are_made_is_named_so(cloud, kinds, monkeypatch, runner, module, last):
    mixture.pretraining(
        "refused", tokenizer=f"{FAR}/tokenizer", sources={"docs": mixture.Source(f"{FAR}/kinds/*.jsonl")}
    )
    before, over = getattr(module, last), []  # what is done last before records are read

    def then(*args):
        result = before(*args)
        over.append(True)
        return result

    monkeypatch.setattr(module, last, then)
    cloud.refuse = lambda method, name: 403 if over and name.endswith("docs.jsonl") else None
    with pytest.raises(BucketRefused, match="the bucket refused: Forbidden"):
        mixture.cache(
            "refused", Caching(tokenizer=f"{FAR}/tokenizer", cache_dir=f"{FAR}/rows", seq_len=64, runner=runner)
        )


def test_lines_of_a_file_in_a_bucket_cost_no_copy_of_a_block_each(cloud):
    cloud.put("bucket/text/long.jsonl", b'{"text": "x"}\n' * 200_000)
    with paths.reading(paths.of(f"{FAR}/long.jsonl")) as file:
        raw, reads = file.raw, []
        count, read = 0, raw.read
        raw.read = lambda length=-1: reads.append(length) or read(length)
        for _ in file:
            count += 1
    assert count == 200_000 and len(reads) < 30 and max(reads) <= paths.BUFFER_BYTES
    place = paths.of(f"{FAR}/long.jsonl")
    assert paths.part(place, 9, 23) == b'"x"}\n{"text": ' and paths.part(place, 2_799_990, 2_800_050) == b'xt": "x"}\n'
    assert paths.size(place) == 2_800_000
