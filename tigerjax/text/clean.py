"""Cleaning files by the rules of `rules`: records in their order, counts by rule, samples of what was changed.

OUT holds a file for each input, quarantine.json (lines that are no records), samples.json and report.html.
"""

import functools
import heapq
import json
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tigerjax import records
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, manifest
from tigerjax.stages import merge, parts, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import page, rules

MAX_BAD_FRACTION = 0.001
SAMPLES = 20  # before/after pairs kept for each rule
SAMPLE_CHARACTERS = 200
BAD_KEPT = 1000  # bad lines of one block that are kept whole; all are counted


class _Job(NamedTuple):
    work: Path
    rules: rules.RuleSet
    deny: tuple[str, ...]
    drop_denied: bool


Sample = tuple[int, str, str]
"""(draw, before, after); the smallest draws are kept, so the sample does not depend on the order of records."""


def _around(old: str, new: str) -> tuple[str, str]:
    """SAMPLE_CHARACTERS of both texts from a little before their first difference."""
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    first = max(same - SAMPLE_CHARACTERS // 4, 0)
    return old[first : first + SAMPLE_CHARACTERS], new[first : first + SAMPLE_CHARACTERS]


class _Tally:
    """What happened to the records of one block."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.rewritten: Counter[str] = Counter()
        self.samples: dict[str, list[Sample]] = {}
        self.bad: list[list[str]] = []
        self.without_lang = 0

    def sample(self, rule: str, identity: str, old: str, new: str) -> None:
        import xxhash

        draw = xxhash.xxh3_64_intdigest(f"{rule}\0{identity}\0{old}".encode("utf-8", "surrogatepass"))
        kept = self.samples.setdefault(rule, [])
        if len(kept) < SAMPLES or draw < kept[-1][0]:
            kept.append((draw, *_around(old, new)))
            kept.sort()
            del kept[SAMPLES:]

    def seen(self, identity: str, rule: str, old: str, new: str) -> None:
        self.rewritten[rule] += 1
        self.sample(rule, identity, old, new)

    def on_bad(self, error: DataError, line: bytes) -> None:
        self.counts["bad"] += 1
        if len(self.bad) < BAD_KEPT:
            self.bad.append([str(error), line.decode("utf-8", "backslashreplace")])


def _clean_block(job: _Job, block: records.Block) -> dict[str, Any]:
    """Writes clean-<block>.jsonl and the block's ids; returns counts, samples and bad lines."""
    tally = _Tally()
    met: list[parts.Document] = []

    def cleaned() -> Iterator[bytes]:
        for number, record, line in records.read_block(block, on_bad=tally.on_bad):
            where = f"{block.path}:{number}"
            try:
                shaped = records.as_record(record, where, allow_empty=True)
                shaped["id"] = records.unique_id(where, record, {})
            except DataError as error:
                tally.on_bad(error, line)
                continue
            identity = shaped["id"]
            tally.without_lang += not shaped["lang"]
            met.append(parts.Document(identity, b"", number, 0.0, ""))
            if records.denied(shaped, job.deny):
                if not job.drop_denied:
                    records.refuse_denied(where, shaped, job.deny)
                tally.counts["denied"] += 1
                continue
            result, reason = job.rules.cleaned(shaped, functools.partial(tally.seen, identity))
            tally.counts[reason] += 1
            if reason:
                tally.sample(reason, identity, records.text_of(result), "")
            else:
                yield line.strip() if result == record else jsonl.dumped(result)

    parts.save_lines(job.work / f"clean-{block.number}.jsonl", cleaned())
    scan.save_met(job.work, block.number, met)
    return {
        "counts": tally.counts,
        "rewritten": tally.rewritten,
        "samples": tally.samples,
        "bad": tally.bad,
        "without_lang": tally.without_lang,
        "path": str(block.path),
    }


def _lines(work: Path, number: int) -> Iterator[tuple[str, bytes]]:
    with open(work / f"clean-{number}.jsonl", "rb") as file:
        for line in file:
            yield "", line[:-1]


def _report(
    counts: dict[str, Any], rewritten: Counter[str], samples: dict[str, list[Sample]], on: Sequence[str]
) -> str:
    """report.html: every rule with its count, and for each a table of sampled pairs."""
    dropped = counts["dropped"]
    rows: list[list[Any]] = [["in", "", counts["in"]], ["out", "", counts["out"]]]
    for name, rule in rules.RULES.items():
        kind = "rewrites" if isinstance(rule, rules.Rewrite) else "drops"
        state = kind if name in on else "off"
        rows.append([f"{name} v{rule.version}", state, rewritten[name] + dropped.get(name, 0)])
    rows += [[name, "drops", n] for name, n in dropped.items() if name not in rules.RULES]
    body = page.table(["rule", "", "records or texts"], rows)
    for name, kept in sorted(samples.items()):
        pairs = [[old, new] for _, old, new in kept]
        body += f"<details><summary>{page.escaped(name)}</summary>{page.table(['before', 'after'], pairs)}</details>"
    return page.document("Cleaning", body)


def clean_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    on: Sequence[str] = (),
    off: Sequence[str] = (),
    sensitive: str | Path | None = None,
    deny: Sequence[str] = records.DENIED_SOURCES,
    drop_denied: bool = False,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Cleans documents and SFT examples to OUT/<name of the input>, in their order; returns the manifest.

    A denied source is an error (or dropped as `denied`). Broken lines go to quarantine.json and are counted as `bad`;
    more than `max_bad_fraction` of them stop the run with the first one's file and line. An id given twice is an error.
    """
    chosen = rules.rule_set(on, off, sensitive)
    paths = records.expand(inputs)
    records.distinct_names(paths)
    if not 0 <= max_bad_fraction <= 1:
        raise ConfigError(f"max_bad_fraction={max_bad_fraction} must be in [0, 1]")
    versions = {name: rule.version for name, rule in rules.RULES.items() if name in chosen.names}
    config = {"rules": versions, "deny": list(deny), "drop_denied": drop_denied, "max_bad_fraction": max_bad_fraction}
    read = [*paths, *([sensitive] if sensitive is not None else [])]
    runner = runner or Runner()
    hashing = runner.reporter("hashed", "GB")
    with manifest.stage(out, name="clean", config=config, inputs=read, hashing=hashing) as run, runner:
        if run.done:
            return run.manifest or {}
        started, work = time.perf_counter(), merge.work_folder(run.tmp)
        job = _Job(work, chosen, tuple(deny), drop_denied)
        blocks = records.blocks(paths)
        found = runner.each(functools.partial(_clean_block, job), blocks, work, "clean")
        named = [block.number for block in blocks], [str(block.path) for block in blocks]
        met: Counter[str] = Counter()
        for said in found:
            met[said["path"]] += sum(said["counts"].values())
        for path in paths:
            jsonl.refuse_empty(path, met[str(path)])
        check = functools.partial(scan.repeated_ids, work, *named, scan.SHARDS)
        scan.refuse_repeated(runner.each(check, range(scan.SHARDS), work, "ids"))
        counts, rewritten = sum((Counter(f["counts"]) for f in found), Counter()), Counter[str]()
        samples: dict[str, list[Sample]] = {}
        for said in found:
            rewritten.update(said["rewritten"])
            for name, kept in said["samples"].items():
                samples[name] = heapq.nsmallest(SAMPLES, [*samples.get(name, []), *((d, b, a) for d, b, a in kept)])
        bad = [line for said in found for line in said["bad"]]
        total, kept_records = sum(counts.values()), counts.pop("", 0)
        if counts["bad"] > max_bad_fraction * total:
            raise DataError(
                f"{bad[0][0]} (and {counts['bad'] - 1} more: {counts['bad']} of {total} records are bad, at most"
                f" {max_bad_fraction:.1%} may be); repair the lines or raise --max-bad-fraction"
            )
        written, say = 0, runner.reporter("write", "records")

        def on_line(_: int) -> None:
            nonlocal written
            written += 1
            if say is not None:
                say(written, kept_records)

        for path in paths:
            mine = [block.number for block in blocks if block.path == path]
            merge.merge_lines([_lines(work, number) for number in mine], run.tmp / records.output_name(path), on_line)
        if bad:
            manifest.write_json(run.tmp / "quarantine.json", [{"error": e, "line": line} for e, line in bad])
        pairs = {name: [{"before": b, "after": a} for _, b, a in kept] for name, kept in sorted(samples.items())}
        (run.tmp / "samples.json").write_text(json.dumps(pairs, ensure_ascii=False, indent=1), encoding="utf-8")
        shutil.rmtree(work)
        dropped = {reason: n for reason, n in sorted(counts.items()) if n}
        run.counts = {"in": total, "out": kept_records, "dropped": dropped}
        text = _report(run.counts, rewritten, samples, list(chosen.names))
        (run.tmp / "report.html").write_text(text, encoding="utf-8")
        speed = records.speed(paths, time.perf_counter() - started, runner.workers)
        run.figures = {"rewritten": dict(sorted(rewritten.items())), **speed}
        if "simplified" in chosen.names:  # the rule passes over these: they do not say that they are Chinese
            run.figures["simplified_without_lang"] = sum(said["without_lang"] for said in found)
    return run.manifest or {}
