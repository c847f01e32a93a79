"""Cleaning as ordered, named, counted rules: rewrites first, then filters; clean(clean(x)) = clean(x).

Rewrites change a text, filters drop a record with the rule's name as its reason. This is a small subset of what a
web corpus needs: no language identification, repetition or sensitive-word filter is here.
"""

import dataclasses
import html
import json
import re
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tigerjax import manifest
from tigerjax.data import records
from tigerjax.errors import ConfigError, DataError

DENIED_SOURCES = ("commoncrawl", "c4")
MAX_BAD_FRACTION = 0.001
SAMPLES = 20  # before/after pairs kept for each rewrite
SAMPLE_CHARACTERS = 200

# C0 and C1 but for newline and tab.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Zero-width space, word joiner, BOM, soft hyphen, private use. The joiners U+200C/D (emoji, Persian) and the
# direction marks U+200E/F carry meaning and stay.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\u00ad\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")  # with its semicolon only
_ATTRIBUTE = r"""\s+[\w:-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s<>"']+)"""
_LAYOUT = "a|b|br|div|em|font|h[1-6]|i|img|li|p|span|strong|table|td|tr|u|ul|ol"
_TAG = re.compile(rf"</?(?:{_LAYOUT})(?:{_ATTRIBUTE})*\s*/?>", re.I)  # not "a<b and c>d"
_BLANK = re.compile(r"\n(?:[ \t]*\n){3,}")
_MARKER = re.compile(r"(?:\n*### (?:Instruction|Response):\n?)|<pad>")
_PLACEHOLDER = re.compile(r"<a text>|<noinput>|\[image\]|\[图片\]", re.I)
_URL_ONLY = re.compile(r"\s*https?://\S+\s*")


def newlines(text: str) -> str:
    """CRLF and lone CR become LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def controls(text: str) -> str:
    """Control characters go, newline and tab stay."""
    return _CONTROLS.sub("", text)


def invisible(text: str) -> str:
    """Zero-width, BOM and private-use characters go; joiners and direction marks stay."""
    return _INVISIBLE.sub("", text)


def entities(text: str) -> str:
    """HTML entities become their characters."""
    return _ENTITY.sub(lambda found: html.unescape(found[0]), text)


def tags(text: str) -> str:
    """Layout tags of HTML go, their contents stay; <br> and </p> become a newline."""
    return _TAG.sub(lambda found: "\n" if re.match(r"<br|</p", found[0], re.I) else "", text)


def blank_lines(text: str) -> str:
    """More than two blank lines in a row become two."""
    return _BLANK.sub("\n\n\n", text)


def markers(text: str) -> str:
    """The chat's marker strings inside a text go: one in 6,000 of TigerBot's examples has them."""
    return _MARKER.sub("\n", text)


def edges(text: str) -> str:
    """Spaces and newlines at both ends go."""
    return text.strip(" \t\n\u3000")


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """One rule that changes a text."""

    apply: Callable[[str], str]
    sft_only: bool = False
    not_code: bool = False

    @property
    def name(self) -> str:
        return self.apply.__name__


REWRITES = (
    Rewrite(newlines),
    Rewrite(controls),
    Rewrite(invisible),
    Rewrite(entities, not_code=True),
    Rewrite(tags, not_code=True),
    Rewrite(markers, sft_only=True),
    Rewrite(blank_lines),
    Rewrite(edges, not_code=True),
)


def empty(record: records.Record) -> bool:
    """A document or a message without a visible character."""
    texts = [record["text"]] if "text" in record else [m["content"] for m in record["messages"]]
    return any(all(unicodedata.category(c)[0] in "ZC" for c in text) for text in texts)


def placeholder(record: records.Record) -> bool:
    """An SFT message that stands for something that is not there."""
    return any(_PLACEHOLDER.search(m["content"]) for m in record.get("messages", ()))


def echo(record: records.Record) -> bool:
    """An SFT answer that repeats its question."""
    turns = [m["content"].strip() for m in record.get("messages", ())]
    return any(user == answer for user, answer in zip(turns[::2], turns[1::2], strict=True))


def url_only(record: records.Record) -> bool:
    """An SFT answer that is one link."""
    return any(_URL_ONLY.fullmatch(m["content"]) for m in record.get("messages", ())[1::2])


FILTERS: tuple[Callable[[records.Record], bool], ...] = (empty, placeholder, echo, url_only)
RULES = tuple(r.name for r in REWRITES) + tuple(f.__name__ for f in FILTERS)


def clean_text(text: str, *, sft: bool, code: bool = False, off: Sequence[str] = (), seen: Any = None) -> str:
    """The rewrites in order, again until nothing changes (each round shortens the text); `seen(rule, old, new)`."""
    while True:
        before = text
        for rule in REWRITES:
            if rule.name in off or (rule.sft_only and not sft) or (rule.not_code and code):
                continue
            new = rule.apply(text)
            if new != text and seen is not None:
                seen(rule.name, text, new)
            text = new
        if text == before:
            return text


def clean_record(record: records.Record, *, off: Sequence[str] = (), seen: Any = None) -> tuple[records.Record, str]:
    """The cleaned record and the name of the filter that drops it ("" = kept)."""
    code = record.get("lang") == "code"
    if "messages" in record:
        messages = [
            {**m, "content": clean_text(m["content"], sft=True, code=code, off=off, seen=seen)}
            for m in record["messages"]
        ]
        record = {**record, "messages": messages}
    else:
        record = {**record, "text": clean_text(record["text"], sft=False, code=code, off=off, seen=seen)}
    return record, next((f.__name__ for f in FILTERS if f.__name__ not in off and f(record)), "")


def clean_files(
    inputs: Sequence[str | Path],
    out: str | Path,
    *,
    off: Sequence[str] = (),
    deny: Sequence[str] = DENIED_SOURCES,
    drop_denied: bool = False,
    max_bad_fraction: float = MAX_BAD_FRACTION,
) -> dict[str, Any]:
    """Cleans documents and SFT examples to OUT/<name of the input>, in their order; returns the manifest.

    A denied source is an error (or dropped as `denied`). Broken lines go to quarantine.json and are counted as `bad`;
    more than `max_bad_fraction` of them stop the run with the first one's file and line.
    """
    if unknown := set(off) - set(RULES):
        raise ConfigError(f"no such cleaning rules: {sorted(unknown)}; there are {list(RULES)}")
    paths = records.expand(inputs)
    records.distinct_names(paths)
    if not 0 <= max_bad_fraction <= 1:
        raise ConfigError(f"max_bad_fraction={max_bad_fraction} must be in [0, 1]")
    config = {"off": sorted(off), "deny": list(deny), "drop_denied": drop_denied, "rules": list(RULES)}
    config["max_bad_fraction"] = max_bad_fraction
    with manifest.stage(out, name="clean", config=config, inputs=paths) as run:
        if run.done:
            return run.manifest or {}
        started = time.perf_counter()
        dropped: Counter[str] = Counter()
        rewritten: Counter[str] = Counter()
        samples: dict[str, list[dict[str, str]]] = {}
        bad: list[dict[str, str]] = []
        seen_ids: dict[str, str] = {}
        total = kept = 0

        def rewrite_seen(rule: str, old: str, new: str) -> None:
            rewritten[rule] += 1
            if len(samples.setdefault(rule, [])) < SAMPLES:
                samples[rule].append({"before": old[:SAMPLE_CHARACTERS], "after": new[:SAMPLE_CHARACTERS]})

        def on_bad(error: DataError, line: bytes) -> None:
            bad.append({"error": str(error), "line": line.decode("utf-8", "backslashreplace")})

        for path in paths:

            def cleaned(path: Path = path) -> Any:
                nonlocal total, kept
                for number, record in records.read_jsonl(path, on_bad=on_bad):
                    where = f"{path}:{number}"
                    try:
                        is_document = "text" in record
                        shaped = (records.as_document if is_document else records.as_sft)(
                            record, where, allow_empty=True
                        )
                        shaped["id"] = records.unique_id(where, record, seen_ids)
                    except DataError as error:
                        on_bad(error, manifest.canonical(record))
                        continue
                    total += 1
                    denied = str(shaped["source"]).casefold().startswith(tuple(deny)) if deny else False
                    if denied and not drop_denied:
                        raise DataError(
                            f"{where}: source {shaped['source']!r} (id {shaped['id']}) is denied, as {list(deny)} are;"
                            " remove it, correct the source, or drop such records with --drop-denied"
                        )
                    result, reason = clean_record(shaped, off=off, seen=rewrite_seen)
                    reason = "denied" if denied else reason
                    if reason:
                        dropped[reason] += 1
                    else:
                        kept += 1
                        yield result

            records.write_jsonl(run.tmp / path.name, cleaned())
        total += len(bad)
        if len(bad) > max_bad_fraction * total:
            raise DataError(
                f"{bad[0]['error']} (and {len(bad) - 1} more: {len(bad)} of {total} records are bad, at most"
                f" {max_bad_fraction:.1%} may be); repair the lines or raise --max-bad-fraction"
            )
        if bad:
            dropped["bad"] = len(bad)
            manifest.write_json(run.tmp / "quarantine.json", bad)
        (run.tmp / "samples.json").write_text(json.dumps(samples, ensure_ascii=False, indent=1), encoding="utf-8")
        seconds = time.perf_counter() - started
        run.counts = {"in": total, "out": kept, "dropped": dict(sorted(dropped.items()))}
        run.figures = {"rewritten": dict(sorted(rewritten.items())), **records.speed(paths, seconds)}
    return run.manifest or {}
