"""SmolLM2-135M-Instruct gets Chinese entries and continues its pretraining, for `real_model.py`.

Its byte-level BPE grows by ENTRIES Chinese ones. Then it reads rows of Chinese and English 1:1, of which 0, 5 or 10% of
the tokens are instructions in plain form:

    before            the model and its vocabulary as they were published
    rows_mean, rows_random, rows_distilled   new rows of each kind, before and after some steps of the 10% mixture
    mix_0, mix_5      0 and 5% instructions, from rows of means; `rows_mean` is the arm of 10%

Held-out loss is given for each token and for each character: more entries make fewer and harder tokens, so only the
latter can be compared between vocabularies. The text is that of `real_sources.py`, a part of each source.
"""

import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import align_world
import real_model_config as sizes
from checkable import CAPITALS, EMBEDDED
from real_model_rounds import CHOICES, Place, loaded

from tigerjax.config import RunConfig
from tigerjax.files.jsonl import read_jsonl, write_jsonl

ENTRIES = 4096
SOURCES = {
    "zh": ("newspaper_zh", "reviews_good_zh", "libreoffice_zh", "handbook_zh", "debian_reference_zh"),
    "en": ("libreoffice_en", "handbook_en", "debian_reference_en"),
}
VOCABULARY_CHARACTERS, SOURCE_CHARACTERS, HELD_OUT_CHARACTERS = 600_000, 200_000, 3_000
"""Of each source: for the vocabulary, for the rows, and of its held-out part."""
INSTRUCTIONS = 2_000
STEPS, PEAK_LR, AFTER = 60, 1e-4, (0, 20, 60)
SHARES = {"mix_0": 0.0, "mix_5": 0.05, "mix_10": 0.10}
ROWS = ("mean", "random", "distilled")
SNIPPETS = 8
PIECE = 128
QUESTION = {"en": "Question: What is the capital of {}?\nAnswer:", "zh": "问题：{}的首都是哪里？\n答案："}


def _taken(path: Path, characters: int) -> Iterator[dict[str, Any]]:
    """The first documents of a file that have so many characters together."""
    for _, record in read_jsonl(path):
        if characters <= 0:
            return
        characters -= len(record["text"])
        yield record


def share(place: Place, text: Path) -> None:
    """What is the same for every seed: the texts, the instructions, the extended vocabulary, and the imported model."""
    home = place.shared / "text"
    if (home / "done.json").is_file():
        return
    if not place.start.is_dir():
        align_world.command("convert", "from-hf", place.tokenizer, place.start)
    for lang, names in SOURCES.items():
        for part, folder, characters in (
            ("vocabulary", "text", VOCABULARY_CHARACTERS),
            ("rows", "text", SOURCE_CHARACTERS),
            ("held_out", "held_out", HELD_OUT_CHARACTERS),
        ):
            (home / part).mkdir(parents=True, exist_ok=True)
            found = (_taken(text / folder / f"{name}.jsonl", characters) for name in names)
            write_jsonl(home / part / f"{lang}.jsonl", itertools.chain.from_iterable(found))
    given = [[record for _, record in read_jsonl(text / "sft" / f"{name}.jsonl")] for name in ("words", "chat")]
    write_jsonl(home / "instructions.jsonl", [e for own in given for e in own[:: max(1, len(own) * 2 // INSTRUCTIONS)]])
    words: tuple[Any, ...] = (
        "tokenizer",
        "train",
        "--base",
        place.tokenizer,
        "--input",
        home / "vocabulary" / "zh.jsonl",
    )
    size = _entries(place.tokenizer) + ENTRIES
    align_world.command(*words, "--vocab-size", size, "--out", home / "chinese")
    words = ("tokenizer", "extend", "--base", place.tokenizer, "--new", home / "chinese", "--vocab-size", size)
    align_world.command(*words, "--out", home / "tokenizer")
    (home / "done.json").write_text(json.dumps({"entries": size}) + "\n", encoding="utf-8")


def _entries(tokenizer: Path) -> int:
    from tigerjax.tokenizer.load import Tokenizer

    return Tokenizer(tokenizer).size


def rows(place: Place, text: Path, kind: str) -> dict[str, Any]:
    """New rows of a kind, and the 10% mixture from them: what the model knows after each number of steps in AFTER."""
    share(place, text)
    start = place.out / f"rows_{kind}"
    if not start.is_dir():
        home = place.shared / "text"
        words = ["convert", "resize", place.start, start, "--base", place.tokenizer, "--tokenizer", home / "tokenizer"]
        words += ["--pad-to-multiple-of", 128, "--new-rows", kind, "--seed", place.seed]
        if kind == "distilled":
            words += ["--text", home / "vocabulary" / "zh.jsonl", "--snippets", SNIPPETS]
        align_world.command(*words)
    folder = _trained(place, start, "mix_10", f"rows_{kind}_trained")
    folders = {0: start} | {step: folder / "checkpoints" / str(step) for step in AFTER if step}
    return {"after": {str(step): measured(_grown(place), at) for step, at in folders.items()}}


def mix(place: Place, text: Path, arm: str) -> dict[str, Any]:
    """A mixture from rows of means: what the model knows at the end. `rows` of kind mean comes first."""
    share(place, text)
    folder = _trained(place, place.out / "rows_mean", arm, f"{arm}_trained")
    return {"after": {str(STEPS): measured(_grown(place), folder)}}


def before(place: Place, text: Path) -> dict[str, Any]:
    """The model as it was published, and the characters per token of either vocabulary."""
    from tigerjax.tokenizer.stats import stats

    share(place, text)
    home = place.shared / "text"
    texts = [home / "held_out" / f"{lang}.jsonl" for lang in SOURCES]
    per_token = {
        name: {lang: own["chars_per_token"] for lang, own in stats(folder, texts)["languages"].items()}
        for name, folder in (("before", place.tokenizer), ("after", home / "tokenizer"))
    }
    return {"after": {"0": measured(place, place.start)}, "characters_per_token": per_token}


def _grown(place: Place) -> Place:
    """The place with the extended tokenizer."""
    grown = Place(place.shared.parents[1], place.seed, place.shared / "text" / "tokenizer")
    grown.start = place.start
    return grown


def _trained(place: Place, start: Path, arm: str, name: str) -> Path:
    from tigerjax.checkpoint.stored import open_model
    from tigerjax.data.mixture import Source, holistic
    from tigerjax.quickstart.training import once
    from tigerjax.train.loop import train_on_mixture

    home, grown = place.shared / "text", _grown(place)
    run: RunConfig = grown.config(name, peak_lr=PEAK_LR, total_steps=STEPS)
    run = dataclasses.replace(
        run,
        model=open_model(start).config,
        data=dataclasses.replace(run.data, mixture=f"real_model_{arm}", cache_dir=str(place.out / "cache")),
        checkpoint=dataclasses.replace(run.checkpoint, init_from=str(start), every_steps=20, keep=len(AFTER)),
        log_every_steps=10,
    )

    def train() -> dict[str, Any]:
        zh, en = ({lang: Source(home / "rows" / f"{lang}.jsonl")} for lang in ("zh", "en"))
        holistic(
            f"real_model_{arm}",
            tokenizer=home / "tokenizer",
            instruct=Source(home / "instructions.jsonl"),
            instruct_fraction=SHARES[arm],
            zh=zh,
            en=en,
        )
        train_on_mixture(run, run_dir=place.out / name)
        return {}

    once(run, place.out / name, train, inputs=[home / "rows", home / "instructions.jsonl"])
    return place.out / name


def measured(place: Place, folder: Path) -> dict[str, Any]:
    """Held-out nats by token and by character, and the shares of right choices of each set of questions."""
    model = loaded(place, folder)
    figures: dict[str, Any] = {}
    for lang in SOURCES:
        figures |= {f"{lang}_{name}": value for name, value in _held_out(place, model, lang).items()}
    for name, asked in questions().items():
        figures[f"{name}_right"] = chosen(model, asked)
    return figures


def _held_out(place: Place, model: Any, lang: str) -> dict[str, float]:
    from tigerjax.evaluate.branches import Tokens
    from tigerjax.evaluate.loglikelihood import LogLikelihoods

    pieces, characters = [], 0
    for _, document in read_jsonl(place.shared / "text" / "held_out" / f"{lang}.jsonl"):
        ids = model.tokenizer.encode(document["text"])
        pieces += [Tokens(tuple(ids[i : i + PIECE])) for i in range(0, len(ids), PIECE) if len(ids) - i > 1]
        characters += len(document["text"])
    scores = dict(LogLikelihoods(model, context=PIECE, rows=16).score(pieces))
    nats = -sum(score.logprob for score in scores.values())
    return {"nats_a_token": nats / sum(len(p.ids) - p.first for p in pieces), "nats_a_character": nats / characters}


Asked = list[tuple[str, list[str], int]]
"""(what stands before the answer, the answers, the place of the right one)."""


@functools.cache
def questions() -> dict[str, Asked]:
    """English questions with four choices, and the capitals of countries in both languages with three others each."""
    given_rows = [json.loads(line) for line in CHOICES.read_text(encoding="utf-8").splitlines()]
    found: dict[str, Asked] = {
        "choices": [
            (f"Question: {r['question']}\nAnswer:", [f" {c}" for c in r["choices"]], r["answer"]) for r in given_rows
        ]
    }
    lines = EMBEDDED.joinpath("capitals.tsv").read_text(encoding="utf-8").splitlines()
    names = lines[0].split("\t")
    table = [dict(zip(names, line.split("\t"), strict=True)) for line in lines[1:]]
    for lang in ("en", "zh"):
        cities = [row[f"{lang}_capital"] for row in table]
        asked: Asked = []
        for n, row in enumerate(table):
            others = [cities[(n + step) % len(cities)] for step in (7, 29, 53)]
            place, space = n % 4, " " if lang == "en" else ""
            given = [*others[:place], cities[n], *others[place:]]
            asked.append((QUESTION[lang].format(row[f"{lang}_country"]), [space + city for city in given], place))
        found[f"capitals_{lang}"] = asked
    assert len(found["capitals_en"]) == len(CAPITALS)
    return found


def chosen(model: Any, asked: Asked) -> dict[str, float]:
    """Share of questions whose right answer is the likeliest per character, its standard error, and their number."""
    from tigerjax.evaluate.branches import Tokens
    from tigerjax.evaluate.loglikelihood import LogLikelihoods

    tok, given, right = model.tokenizer, [], 0
    for head, answers, _ in asked:
        ids = tok.encode(head)
        given += [Tokens((*ids, *tok.encode(answer)), len(ids)) for answer in answers]
    scores = dict(LogLikelihoods(model, context=PIECE, rows=16).score(given))
    at = 0
    for _, answers, place in asked:
        each = [scores[at + k].logprob / len(answer.strip()) for k, answer in enumerate(answers)]
        right += each.index(max(each)) == place
        at += len(answers)
    share_ = right / len(asked)
    return {"share": share_, "error": math.sqrt(share_ * (1 - share_) / len(asked)), "n": len(asked)}


def arms(text: Path) -> dict[str, Any]:
    made: dict[str, Any] = {"before": functools.partial(before, text=text)}
    made |= {f"rows_{kind}": functools.partial(rows, text=text, kind=kind) for kind in ROWS}
    return made | {arm: functools.partial(mix, text=text, arm=arm) for arm in SHARES if arm != "mix_10"}


def files(text: Path) -> list[Path]:
    """The files of `real_sources.py` that are read."""
    return [text / folder / f"{n}.jsonl" for own in SOURCES.values() for n in own for folder in ("text", "held_out")]


def settings(text: Path) -> dict[str, Any]:
    """What every cell depends on."""
    from tigerjax.files import manifest

    return {
        "entries": ENTRIES,
        "steps": STEPS,
        "lr": PEAK_LR,
        "characters": [VOCABULARY_CHARACTERS, SOURCE_CHARACTERS, HELD_OUT_CHARACTERS],
        "snippets": SNIPPETS,
        "row": [sizes.ROW, sizes.ROWS],
        "text": {f"{p.parent.name}/{p.stem}": manifest.sha256(p) for p in files(text)},
    }
