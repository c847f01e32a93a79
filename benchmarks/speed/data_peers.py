"""Text and rows beside the libraries that others use for them, same input, in turns, CPU seconds of one process.

python benchmarks/speed/data_peers.py --json data_peers.json [--megabytes 4] [--repeats 3]

tokenizer    `Tokenizer.encode_batch` beside `tokenizers` with the exported tokenizer.json; ids are compared
near         near duplicates from files to files beside datasketch: same key, same shingles, 112 permutations in 14
             bands, hashed with xxhash; of the planted copies, how many each finds
sft          chat examples from JSONL to cached rows, and rows to batches, beside `datasets` with transformers'
             padding collator; tokens are those with content, `fill` is their share of a batch's positions
"""

import argparse
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_throughput import EMBEDDED, corpus, tokenizer
from turns import Row, cpu, finish, medians, peer, turns

SEQ_LEN, BATCH_ROWS, EXAMPLES = 512, 16, 8000


def tokens(folder: Path, documents: list[Any], repeats: int) -> tuple[list[Row], Any]:
    """MB a CPU second of encoding sentences."""
    from tigerjax.tokenizer.load import Tokenizer

    made = tokenizer(folder)
    mine, other = Tokenizer(made), peer("tokenizers").Tokenizer.from_file(str(made / "tokenizer.json"))
    lines = [line for d in documents for line in d["text"].split("\n") if line]
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    theirs = [e.ids for e in other.encode_batch(lines, add_special_tokens=False)]
    differ = sum(a != b for a, b in zip(mine.encode_batch(lines), theirs, strict=True))
    found = turns(
        repeats,
        {
            "ours": lambda: cpu(lambda: mine.encode_batch(lines)),
            "tokenizers": lambda: cpu(lambda: other.encode_batch(lines, add_special_tokens=False)),
        },
    )
    rates = {name: megabytes / seconds for name, seconds in medians(found).items()}
    rows = [Row("tokenizer, encoding", "MB/s/core", rates["ours"], rates["tokenizers"], "tokenizers, the same ids")]
    rows.append(Row("tokenizer, lines of other ids than the peer's", "", differ, better="as is"))
    return rows, found | {"lines": len(lines), "megabytes": megabytes}


def near(folder: Path, documents: list[Any], repeats: int) -> tuple[list[Row], Any]:
    """MB a CPU second of finding near duplicates, and the planted ones found."""
    datasketch = peer("datasketch")
    import xxhash

    from tigerjax.files import jsonl
    from tigerjax.text import minhash
    from tigerjax.text.dedup import dedup_files
    from tigerjax.text.grams import key, words
    from tigerjax.tokenizer.verify import language

    jsonl.write_jsonl(folder / "x.jsonl", documents)
    megabytes = sum(len(d["text"].encode()) for d in documents) / 1e6
    dropped: dict[str, int] = {}

    def ours() -> float:
        target = folder / "near"
        shutil.rmtree(target, ignore_errors=True)
        seconds = cpu(lambda: dedup_files("near", [folder / "x.jsonl"], target))
        dropped["ours"] = json.loads((target / "manifest.json").read_text(encoding="utf-8"))["counts"]["dropped"][
            "near"
        ]
        return seconds

    def shingled(text: str) -> set[bytes]:
        if language(text) == "zh":
            plain = key(text)
            return {plain[i : i + minhash.SHINGLE].encode() for i in range(len(plain) - minhash.SHINGLE + 1)}
        found = words(text)
        return {" ".join(found[i : i + minhash.SHINGLE]).encode() for i in range(len(found) - minhash.SHINGLE + 1)}

    def theirs() -> float:
        def work() -> None:
            index = datasketch.MinHashLSH(
                threshold=0.7, num_perm=minhash.PERMUTATIONS, params=(minhash.BANDS, minhash.BAND_VALUES)
            )
            kept: dict[str, Any] = {}
            gone = 0
            with open(folder / "kept.jsonl", "w", encoding="utf-8") as out:
                for line in open(folder / "x.jsonl", encoding="utf-8"):
                    record = json.loads(line)
                    sketch = datasketch.MinHash(num_perm=minhash.PERMUTATIONS, hashfunc=xxhash.xxh32_intdigest)
                    sketch.update_batch(shingled(record["text"]))
                    if any(kept[name].jaccard(sketch) >= 0.7 for name in index.query(sketch)):
                        gone += 1
                        continue
                    index.insert(record["id"], sketch)
                    kept[record["id"]] = sketch
                    out.write(line)
            dropped["datasketch"] = gone

        return cpu(work)

    found = turns(repeats, {"ours": ours, "datasketch": theirs})
    rates = {name: megabytes / seconds for name, seconds in medians(found).items()}
    rows = [Row("near duplicates, files to files", "MB/s/core", rates["ours"], rates["datasketch"], "datasketch")]
    rows.append(Row("near duplicates dropped", "", dropped["ours"], dropped["datasketch"], "datasketch", "as is"))
    return rows, found | {"megabytes": megabytes, "dropped": dropped}


def examples(path: Path, count: int) -> None:
    """Chat examples of the embedded set in a random order, ids of their own, answers long and short."""
    from tigerjax.files.jsonl import read_jsonl, write_jsonl

    dice, given = random.Random(0), [record for _, record in read_jsonl(EMBEDDED / "sft.jsonl")]
    texts = [d["text"] for name in ("zh", "en") for _, d in read_jsonl(EMBEDDED / f"corpus_{name}.jsonl")]

    def example(number: int) -> dict[str, Any]:
        question = dice.choice(given)["messages"][-2]
        start, text = 0, dice.choice(texts)
        answer = text[start : start + int(20 * 1.05 ** dice.randrange(60))] or text
        return {"id": f"e{number}", "messages": [question, {"role": "assistant", "content": answer.strip() or "."}]}

    write_jsonl(path, map(example, range(count)))


def sft(folder: Path, count: int, repeats: int) -> tuple[list[Row], Any]:
    """Examples a CPU second to rows, and thousands of tokens a CPU second to batches."""
    datasets, transformers, torch = peer("datasets"), peer("transformers"), peer("torch")
    import numpy as np

    from tigerjax.data import row_files
    from tigerjax.data.loader import Loader
    from tigerjax.data.tasks import RowMaker
    from tigerjax.files import manifest
    from tigerjax.tokenizer.load import Tokenizer

    datasets.disable_progress_bars()
    made = tokenizer(folder)
    examples(folder / "sft.jsonl", count)
    mine = Tokenizer(made)
    other = transformers.PreTrainedTokenizerFast(tokenizer_file=str(made / "tokenizer.json"), pad_token="<pad>")
    state: dict[str, Any] = {"turn": 0}

    def rows_of_ours() -> float:
        state["turn"] += 1
        place = folder / f"rows-{state['turn']}"
        place.mkdir()
        maker = RowMaker("sft", (str(folder / "sft.jsonl"),), str(made), None)

        def work() -> None:
            figures = row_files.write(place, maker.make(maker.read(), SEQ_LEN)) | {"seq_len": SEQ_LEN}
            manifest.write_json(place / manifest.FILE, {"figures": figures})

        seconds = cpu(work)
        state["ours"], state["tokens"] = place, maker.counts["tokens"]
        return seconds

    def encoded(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        users, answers = ([turns[i]["content"] for turns in batch["messages"]] for i in (0, 1))
        asked, replies = (other(texts, add_special_tokens=False)["input_ids"] for texts in (users, answers))
        ids = [[mine.ins, *a, mine.res, *b, mine.eos] for a, b in zip(asked, replies, strict=True)]
        labels = [[-100] * (len(a) + 2) + [*b, mine.eos] for a, b in zip(asked, replies, strict=True)]
        return {"input_ids": ids, "labels": labels}

    def rows_of_theirs() -> float:
        def work() -> None:
            given = datasets.load_dataset(
                "json",
                data_files=str(folder / "sft.jsonl"),
                split="train",
                cache_dir=str(folder / f"hf-{state['turn']}"),
            )
            state["theirs"] = given.map(encoded, batched=True, remove_columns=given.column_names)

        return cpu(work)

    prepared = turns(repeats, {"ours": rows_of_ours, "datasets": rows_of_theirs})
    fills: dict[str, float] = {}

    def load_ours() -> float:
        loader = Loader({"sft": state["ours"]}, {"sft": 1.0}, BATCH_ROWS, SEQ_LEN, seed=0)
        batches, used, places = loader.rows()["sft"] // BATCH_ROWS, 0, 0

        def work() -> None:
            nonlocal used, places
            for _ in range(batches):
                batch = next(loader)
                used += int(np.count_nonzero(batch.segment_ids_BT))
                places += batch.tokens_BT.size

        seconds = cpu(work)
        fills["ours"] = used / places
        return used / seconds / 1e3

    def load_theirs() -> float:
        collate = transformers.DataCollatorForSeq2Seq(other, padding="longest", max_length=SEQ_LEN)
        loader = torch.utils.data.DataLoader(
            state["theirs"], batch_size=BATCH_ROWS, shuffle=True, collate_fn=collate, generator=torch.Generator()
        )
        used = places = 0

        def work() -> None:
            nonlocal used, places
            for batch in loader:
                used += int(batch["attention_mask"].sum())
                places += batch["input_ids"].numel()

        seconds = cpu(work)
        fills["datasets"] = used / places
        return used / seconds / 1e3

    loaded = turns(repeats, {"ours": load_ours, "datasets": load_theirs})
    rates = {name: count / seconds for name, seconds in medians(prepared).items()}
    fast = medians(loaded)
    rows = [
        Row("SFT, JSONL to rows", "examples/s/core", rates["ours"], rates["datasets"], "datasets.map, fast tokenizer"),
        Row("SFT, rows to batches", "K tokens/s/core", fast["ours"], fast["datasets"], "DataLoader, padding collator"),
        Row("SFT, share of a batch that holds a token", "", fills["ours"], fills["datasets"], "padded to the longest"),
    ]
    return rows, {"prepared_s": prepared, "loaded_k_tokens_per_s": loaded, "fill": fills, "examples": count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, default=4)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}  # one core each; nothing is fetched
    documents = corpus(args.megabytes, seed=0)
    rows, raw = list[Row](), dict[str, Any]()
    parts: dict[str, Callable[[Path], tuple[list[Row], Any]]] = {
        "tokenizer": lambda folder: tokens(folder, documents, args.repeats),
        "near": lambda folder: near(folder, documents, args.repeats),
        "sft": lambda folder: sft(folder, args.examples, args.repeats),
    }
    for name, part in parts.items():
        with tempfile.TemporaryDirectory() as folder:
            more, raw[name] = part(Path(folder))
        rows += more
    finish(rows, raw, args.json)


if __name__ == "__main__":
    main()
