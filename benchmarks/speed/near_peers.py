"""Near duplicates beside datatrove's and text-dedup's MinHash: the same text and shingles, MB/s/core, and the clusters.

    python -m venv PEERS && PEERS/bin/pip install "datatrove[io]==0.10.1" text-dedup==0.4.0 orjson tokenizers "xxhash<4"
    python benchmarks/speed/near_peers.py --peers PEERS/bin/python [--megabytes 160] [--work DIR] [--json FILE]

The peers need an environment of their own. Each side is one process on one core, from JSONL to what is kept, and its
CPU seconds count, starts and imports too. All take 14 bands of 8 values over shingles of 5: characters of Chinese,
words of other text, of the key without case and punctuation. The peers get a text that is cut into these already, with
blanks between, which is made before and not counted: text-dedup cuts at blanks, and datatrove gets a tokenizer that
does. Neither compares what its bands bring together; ours keeps a pair from a similarity of 0.7 on.

A cluster is the set of its ids. `only ours` and `only theirs` are pairs (first id of the cluster, another one).
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from corpus_growth import Stages, corpus_files, measured

from tigerjax.files import jsonl
from tigerjax.text.grams import key, words
from tigerjax.tokenizer.verify import language

DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.word_tokenizers import WordTokenizer
class Blanks(WordTokenizer):
    def word_tokenize(self, text): return text.split()
    def sent_tokenize(self, text): return [text]
    def span_tokenize(self, text): return [(0, len(text))]
given, work = sys.argv[1:]
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8)
read = lambda: JsonlReader(given)
how = {"workers": 1, "skip_completed": False}
def run(*steps, tasks=1):
    logs = f"{work}/logs/{type(steps[-1]).__name__}"  # else a folder logs/ of the place where it is started
    LocalPipelineExecutor(pipeline=list(steps), tasks=tasks, logging_dir=logs, **how).run()
run(read(), MinhashDedupSignature(output_folder=work + "/sig", config=config, language=Blanks()))
run(MinhashDedupBuckets(work + "/sig", work + "/buckets", config=config), tasks=14)
ids = {"save_cluster_id": True, "save_cluster_size": True}
run(MinhashDedupCluster(work + "/buckets", work + "/remove", config=config, **ids))
run(read(), MinhashDedupFilter(work + "/remove", exclusion_writer=JsonlWriter(work + "/removed", compression=None),
    load_cluster_ids=True, load_cluster_sizes=True), JsonlWriter(work + "/kept", compression=None))
"""


def units(text: str) -> list[str]:
    """What a shingle is made of five of."""
    return list(key(text)) if language(text) == "zh" else words(text)


def cut(files: list[Path], folder: Path) -> None:
    """The same documents, as the peers read them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in files:
        made = ({"id": r["id"], "text": " ".join(units(r["text"]))} for _, r in jsonl.read_jsonl(path))
        jsonl.write_jsonl(folder / path.name, made)


def pairs(clusters: list[set[str]]) -> set[tuple[str, str]]:
    """(first id, another one) of each cluster."""
    return {(first, other) for one in clusters for first in [min(one)] for other in one - {first}}


def of_ours(out: Path) -> list[set[str]]:
    return [set(line["all"]) for _, line in jsonl.read_jsonl(out / "clusters" / "clusters.jsonl")]


def grouped(records: list[dict[str, Any]], number: str) -> list[set[str]]:
    groups: dict[Any, set[str]] = {}
    for record in records:
        if (name := record.get(number, -1)) is not None and name != -1:
            groups.setdefault(name, set()).add(record["id"])
    return [one for one in groups.values() if len(one) > 1]


def of_datatrove(work: Path) -> list[set[str]]:
    read = [
        r
        for place in ("kept", "removed")
        for path in sorted((work / place).glob("*.jsonl"))
        for _, r in jsonl.read_jsonl(path)
    ]
    return grouped([{"id": r["id"], **r.get("metadata", {})} for r in read], "minhash_cluster_id")


TEXT_DEDUP_CLUSTERS = """
import json, pickle, sys
from text_dedup.utils import UnionFind
import datasets
given, uf, out = sys.argv[1:]
import glob
ids = [json.loads(line)["id"] for path in sorted(glob.glob(given + "/*.jsonl")) for line in open(path)]
found = pickle.load(open(uf, "rb"))
groups = {}
for i in list(found.parent):
    groups.setdefault(found.find(i), []).append(ids[i])
json.dump([g for g in groups.values() if len(g) > 1], open(out, "w"))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, required=True, help="the Python that has datatrove and text-dedup")
    parser.add_argument("--megabytes", type=float, default=160)
    parser.add_argument("--work", type=Path, default=Path("runs/near_peers"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    work, python = args.work.resolve(), str(args.peers.absolute())
    stages = Stages(work, 1)
    files = corpus_files(work / "text", args.megabytes)
    megabytes = sum(len(r["text"].encode()) for path in files for _, r in jsonl.read_jsonl(path)) / 1e6
    given = work / "cut"
    cut(files, given)
    figures: dict[str, Any] = {"megabytes": megabytes}
    for folder in ("ours", "datatrove", "text-dedup"):
        shutil.rmtree(work / folder, ignore_errors=True)
    found: dict[str, list[set[str]]] = {}
    took = {"ours": measured(stages.command("near", files, work / "ours"), stages.env)}
    found["ours"] = of_ours(work / "ours")
    env = stages.env | {"PYTHONPATH": "", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(work / "hf")}
    took["datatrove"] = measured([python, "-c", DATATROVE, str(given), str(work / "datatrove")], env)
    found["datatrove"] = of_datatrove(work / "datatrove")
    words_of = ["--path", "json", "--data_files", str(given / "*.jsonl"), "--split", "train", "--column", "text"]
    how = ["--ngram", "5", "--min_length", "5", "--num_perm", "112", "--b", "14", "--r", "8", "--threshold", "0.7"]
    out = [
        "--output",
        str(work / "text-dedup"),
        "--num_proc",
        "1",
        "--cache_dir",
        str(work / "hf"),
        "--use_auth_token",
        "false",
    ]
    took["text-dedup"] = measured([python, "-m", "text_dedup.minhash", *words_of, *how, *out, "--debug"], env)
    uf = next(iter((work / "text-dedup").rglob("uf.pkl")))
    measured([python, "-c", TEXT_DEDUP_CLUSTERS, str(given), str(uf), str(work / "clusters.json")], env)
    found["text-dedup"] = [set(one) for one in json.loads((work / "clusters.json").read_text(encoding="utf-8"))]
    mine = pairs(found["ours"])
    print(f"{megabytes:.1f} MB of text; one core each")
    print(
        f"{'':12} {'CPU s':>8} {'MB/s/core':>10} {'peak GB':>8} {'clusters':>9} {'only ours':>10} {'only theirs':>12}"
    )
    for name, (seconds, peak) in took.items():
        theirs = pairs(found[name])
        row = {
            "seconds": seconds, "mb_per_s_per_core": megabytes / seconds, "peak_gb": peak, "clusters": len(found[name]),
            "only_ours": len(mine - theirs), "only_theirs": len(theirs - mine),
        }  # fmt: skip
        figures[name] = row | {"samples": [sorted(mine - theirs)[:10], sorted(theirs - mine)[:10]]}
        print(
            f"{name:12} {seconds:8.1f} {megabytes / seconds:10.2f} {peak:8.2f} {row['clusters']:9,}"
            f" {row['only_ours']:10,} {row['only_theirs']:12,}"
        )
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
