"""Cleans files by the rules of `rules`. Records keep their order; each rule's work is counted and sampled.

OUT holds a file for each input, quarantine.json (lines that are no records), samples.json and report.html.
"""

import functools
import shutil
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tigerjax import records
from tigerjax.errors import DataError
from tigerjax.files import jsonl, manifest
from tigerjax.records import quarantine
from tigerjax.stages import merge, parts, repeats, scan
from tigerjax.stages.runner import Runner
from tigerjax.text import cleaning_page, language, rules, samples


class _Job(NamedTuple):
    work: Path
    way: records.Way
    rules: rules.RuleSet
    drop_denied: bool
    allowed: frozenset[str]


class _Tally:
    """What happened to the records of one block."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.rewritten: Counter[str] = Counter()
        self.samples = samples.Samples()
        self.bad = quarantine.Quarantine()
        self.allowed: Counter[str] = Counter()
        self.changed: Counter[str] = Counter()
        self.without_lang = self.found_zh = 0  # records without `lang`, and those of Chinese text among them

    def on_rewrite(self, identity: str, rule: str, old: str, new: str) -> None:
        self.rewritten[rule] += 1
        self.samples.add(rule, identity, old, new)


def _clean_block(job: _Job, block: records.FileBlock) -> dict[str, Any]:
    """Writes clean-<block>.jsonl, samples-<block>.json and the block's ids; returns counts."""
    tally = _Tally()
    met: list[parts.Document] = []
    kept: list[int] = []  # places in `met` of the records that are written

    def cleaned() -> Iterator[bytes]:
        for number, record, line in records.read_block(block, on_bad=tally.bad):
            where = f"{block.path}:{number}"
            try:
                shaped = records.as_record(record, where, allow_empty=True, counts=tally.changed)
                own = records.identity(where, record, job.way)
            except DataError as error:
                tally.bad(error, line)
                continue
            identity = shaped["id"] = own.id
            if not language.declared(shaped):
                tally.without_lang += 1
                tally.found_zh += "simplified" in job.rules.names and language.chinese([records.text_of(shaped)])
            met.append(parts.Document(own, b"", number, 0.0, ""))
            if records.denied(shaped) and shaped["source"] in job.allowed:
                tally.allowed[shaped["source"]] += 1
                shaped["source_allowed"] = True  # so that no later stage refuses it
            elif records.denied(shaped):
                if not job.drop_denied:
                    records.refuse_denied(where, shaped)
                tally.counts["denied"] += 1
                continue
            result, reason = job.rules.cleaned(shaped, functools.partial(tally.on_rewrite, identity))
            tally.counts[reason] += 1
            if reason:
                tally.samples.add(reason, identity, records.text_of(result), "")
            else:
                kept.append(len(met) - 1)
                yield line.strip() if result == record else jsonl.dumped(result)

    parts.save_lines(job.work / f"clean-{block.number}.jsonl", cleaned())
    scan.save_met(job.work, block.number, met, block.path)
    parts.save_npy(job.work / f"kept-{block.number}.npy", np.array(kept, np.int64))
    samples.save(job.work, block.number, tally.samples)
    tally.bad.save(job.work, block.number)
    return {
        "counts": {**tally.counts, "bad": tally.bad.count},
        "rewritten": tally.rewritten,
        "without_lang": tally.without_lang,
        "allowed": tally.allowed,
        "found_zh": tally.found_zh,
        "changed": tally.changed,
        "path": str(block.path),
    }


Output = tuple[str, list[tuple[int, np.ndarray | None]]]
"""(name of an output, each block that is written to it with what `repeats.times` has of it)."""


def _write(work: Path, out: Path, output: Output) -> int:
    name, blocks = output
    sources = (_lines(work, number, repeats.names(work, number, times)) for number, times in blocks)
    return merge.append_lines(sources, out / name)


def _lines(work: Path, number: int, names: Mapping[int, str]) -> Iterator[tuple[str, bytes]]:
    """The lines of a block; `names` has new ids of some records, by their places among all that were met."""
    places = np.load(work / f"kept-{number}.npy", allow_pickle=False).tolist()
    with open(work / f"clean-{number}.jsonl", "rb") as file:
        for place, line in zip(places, file, strict=True):
            yield "", parts.renamed(line[:-1], names.get(place))


def _cleaned(
    job: _Job, ids: records.Ids, paths: Sequence[Path], runner: Runner
) -> tuple[list[dict[str, Any]], repeats.RepeatPlaces]:
    """What `_clean_block` returned of each block, and the equal records of all blocks."""
    blocks = scan.blocks(runner, job.work, paths)
    files = {block.number: str(block.path) for block in blocks}
    for way in records.ways(ids):
        work = functools.partial(_clean_block, job._replace(way=way))
        step = "clean_again" if way == "file" else "clean"
        cleaned = runner.each(work, blocks, job.work, step)
        met: Counter[str] = Counter()
        for block in cleaned:
            met[block["path"]] += sum(block["counts"].values())
        for path in paths:
            jsonl.refuse_empty(path, met[str(path)])
        if not repeats.of_other_files(repeats.find(runner, job.work, files, scan.SHARDS, f"{step}_ids"), way, ids):
            break
    return cleaned, repeats.times(job.work, scan.SHARDS)


def _without_lang(names: Collection[str], cleaned: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """What the rules about languages made of records that declare none; said on standard error, too."""
    count, zh = (sum(block[name] for block in cleaned) for name in ("without_lang", "found_zh"))
    out: dict[str, int] = {}
    if count and "simplified" in names:
        records.note(f"{count} records have no lang; rule simplified took {zh} of them for Chinese by their text")
        out |= {"simplified_without_lang": count - zh, "simplified_by_text": zh}
    if count and "language" in names:
        records.note(f"{count} records have no lang, so rule language passed over them; give them one to check it")
        out["language_without_lang"] = count
    return out


# One parameter for each option of `tigerjax data clean`, so that a script reads like the command.
def clean_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    on: Sequence[str] = (),
    off: Sequence[str] = (),
    sensitive: str | Path | None = None,
    drop_denied: bool = False,
    allow_source: Sequence[str] = (),
    max_bad_fraction: float = quarantine.MAX_BAD_FRACTION,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Cleans documents and SFT examples to OUT/<name of the input>, in their order; returns the manifest.

    A record of a denied source is an error; with `drop_denied` it is dropped and counted as `denied`. One whose source
    is in `allow_source` stays, and says `source_allowed` from then on; `figures["allowed"]` counts these. Broken lines
    go to quarantine.json and are counted as `bad`. More than `max_bad_fraction` of them are an error, which names the
    first one's file and line. An id that a file gives twice is an error (`records.ids`). Raises DataError where more
    than `max_bad_fraction` of the records are broken, ConfigError where that is no share.
    """
    chosen = rules.rule_set(on, off, sensitive)
    paths = records.expand(inputs)
    records.distinct_names(paths)
    quarantine.refuse_fraction(max_bad_fraction)
    versions = {name: rule.version for name, rule in rules.RULES.items() if name in chosen.names}
    config = {
        "rules": versions,
        "not_sft": sorted(chosen.not_sft),
        "deny": list(records.DENIED_SOURCES),
        "drop_denied": drop_denied,
        "allow_source": sorted(allow_source),
        "max_bad_fraction": max_bad_fraction,
        **records.inputs_config(inputs),
    }
    read = [*paths, *([sensitive] if sensitive is not None else [])]
    runner = runner or Runner()
    hashing = runner.reporter("hashed", "GB")
    with (
        manifest.stage(out, name="clean", config=config, inputs=read, hashing=hashing, verify=runner.verify) as run,
        runner,
    ):
        if run.done:
            return run.manifest or {}
        started, work = time.perf_counter(), merge.work_folder(run.tmp)
        job = _Job(work, "keep", chosen, drop_denied, frozenset(allow_source))
        cleaned, equal = _cleaned(job, records.ids_of(inputs), paths, runner)
        changed = sum((Counter(block["changed"]) for block in cleaned), Counter())
        changed[records.NUMBERED] = sum(times.shape[1] for times in equal.values())
        records.tell(records.shown(paths), changed)
        counts, rewritten = sum((Counter(block["counts"]) for block in cleaned), Counter()), Counter[str]()
        for block in cleaned:
            rewritten.update(block["rewritten"])
        pairs = samples.gathered(work, range(len(cleaned)))
        total, left = sum(counts.values()), counts.pop("", 0)
        quarantine.write(work, range(len(cleaned)), run.tmp, counts["bad"], total, max_bad_fraction)
        outputs: dict[str, Output] = {str(path): (records.output_name(path), []) for path in paths}
        for number, block in enumerate(cleaned):
            outputs[block["path"]][1].append((number, equal.get(number)))
        runner.each(functools.partial(_write, work, run.tmp), list(outputs.values()), work, "write")
        samples.write(run.tmp / "samples.json", pairs)
        shutil.rmtree(work)
        dropped = {reason: n for reason, n in sorted(counts.items()) if n}
        run.counts = {"in": total, "out": left, "dropped": dropped}
        cleaning_page.write(run.tmp / "report.html", run.counts, rewritten, pairs, chosen.names)
        speed = records.speed(paths, time.perf_counter() - started, runner.cores())
        run.figures = {"rewritten": dict(sorted(rewritten.items())), **records.changes(changed), **speed}
        run.figures |= _without_lang(chosen.names, cleaned)
        if allow_source:
            allowed = sum((Counter(block["allowed"]) for block in cleaned), Counter[str]())
            run.figures["allowed"] = {name: allowed[name] for name in sorted(allow_source)}
    return run.manifest or {}
