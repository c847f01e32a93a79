"""Six documents as a file of every format that is read, for all rooms."""

import csv
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from tigerjax.records import tfds_builder
from tigerjax.records.tf import start

GIVEN = [
    {"id": f"d{n}", "text": f"第{n}章，老虎在山里走。\nThe tiger walks {n} times.", "source": "", "lang": "zh"}
    for n in range(6)
]
LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in GIVEN).encode()
LISTED = json.dumps(GIVEN, ensure_ascii=False, indent=1).encode()


def save_dataset(folder, given, files=2):
    """What `datasets.Dataset.from_list(given).save_to_disk(folder)` writes, as far as it is read."""
    folder.mkdir(parents=True)
    names = [f"data-{n:05}-of-{files:05}.arrow" for n in range(files)]
    for n, name in enumerate(names):
        save_stream(folder / name, given[n * len(given) // files : (n + 1) * len(given) // files])
    state = {"_data_files": [{"filename": name} for name in names], "_split": "train", "_fingerprint": "x"}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def save_stream(path, given):
    table = pa.Table.from_pylist(given)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def save_file(path, given):
    table = pa.Table.from_pylist(given)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def save_csv(path, delimiter=","):
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(GIVEN[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(GIVEN)


def save_tfrecord(path):
    tf, _ = start()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for line in LINES.splitlines():
            writer.write(line)


def save_array_record(path):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for line in LINES.splitlines():
        writer.write(line)
    writer.close()


def save_tfds(path):
    folder = path.parent.parent
    (folder / "given.jsonl").write_bytes(LINES)
    tfds_builder.build([folder / "given.jsonl"], folder, "tiger")


def save_splits(path):
    save_dataset(path / "train", GIVEN)
    save_dataset(path / "test", GIVEN[:1])
    (path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')


def warc_record(kind, content, number, media):
    """A record of a web archive, as crawlers write it."""
    head = [
        f"WARC-Type: {kind}",
        f"WARC-Record-ID: <urn:uuid:{number}>",
        f"WARC-Target-URI: https://tiger.org/{number}",
    ]
    head += ["WARC-Date: 2026-05-04T00:00:00Z", f"Content-Type: {media}", f"Content-Length: {len(content)}"]
    return "\r\n".join(["WARC/1.0", *head, "", ""]).encode() + content + b"\r\n\r\n"


def save_warc(path):
    made = [warc_record("warcinfo", b"software: x\r\n", "w", "application/warc-fields")]
    made += [warc_record("conversion", record["text"].encode(), record["id"], "text/plain") for record in GIVEN]
    path.write_bytes(b"".join(made))


def save_pages(path):
    """An archive of pages as a server gave them."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=gbk\r\n\r\n"
    made = [head + f"<html><p>{one['text']} &amp;<b>more</b>".encode("gbk") for one in GIVEN]
    media = "application/http; msgtype=response"
    path.write_bytes(b"".join(warc_record("response", page, n, media) for n, page in enumerate(made)))


WRITTEN = {
    "docs.jsonl": lambda path: path.write_bytes(LINES),
    "docs.jsonl.zst": lambda path: path.write_bytes(zstandard.compress(LINES)),
    "docs.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES)),
    "docs.jsonl.xz": lambda path: path.write_bytes(lzma.compress(LINES)),
    "docs.json": lambda path: path.write_bytes(LISTED),
    "docs.json.gz": lambda path: path.write_bytes(gzip.compress(LISTED)),
    "lines.json": lambda path: path.write_bytes(LINES),
    "docs.csv": save_csv,
    "docs.tsv": lambda path: save_csv(path, delimiter="\t"),
    "docs.parquet": lambda path: pq.write_table(pa.Table.from_pylist(GIVEN), path, row_group_size=2),
    "stream.arrow": lambda path: save_stream(path, GIVEN),
    "file.arrow": lambda path: save_file(path, GIVEN),
    "file.feather": lambda path: save_file(path, GIVEN),
    "Docs.Parquet": lambda path: pq.write_table(pa.Table.from_pylist(GIVEN), path),
    "saved": lambda path: save_dataset(path, GIVEN),
    "splits": save_splits,
    "docs.tfrecord-00000-of-00001": save_tfrecord,
    "docs.array_record": save_array_record,
    "tiger/1.0.0": save_tfds,
    "without_an_ending": lambda path: path.write_bytes(LINES),
}
