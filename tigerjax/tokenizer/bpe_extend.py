"""A byte-level BPE grown for Chinese: training of new merges, and an extension of exactly the wanted size.

The method is ours. Training starts where the base ends: the text is cut into tokens by the base, with its own
pre-tokenizer, and new merges join these tokens. So there is always a way from text to a new token.

1. Each character that the base spells in several tokens gets merges that make one of it, up to a share of all
   characters in the text. What such a character begins with is a token too, and counts as one.
2. The text is cut again with these, and a BPE trainer finds merges of whole characters.
3. All are put in the order of how often the text applies them, which is the order in which a BPE trainer would have
   found them. A part is applied at least as often as what it is a part of, so it comes first. Any first merges of that
   list are an extension by themselves, and so every size can be had exactly.
"""

import itertools
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, trainers

from tigerjax.errors import ConfigError, DataError
from tigerjax.files import paths
from tigerjax.files.manifest import stage
from tigerjax.files.progress import Progress
from tigerjax.tokenizer import bpe
from tigerjax.tokenizer.added import FAST_FILE
from tigerjax.tokenizer.bpe import Base, Pair
from tigerjax.tokenizer.sample import read_all, split_lines

FIRST = 0x10000  # code points from here on stand for tokens while pairs are counted
LONGEST = 16  # characters of a new token, as in Llama-2's SentencePiece
COVERAGE = 0.9995  # share of the text's CJK characters that get a token of their own
SPARE = 1.1  # of the merges that are needed, so many are trained: some may be left out
BATCH = 1024  # lines that are cut into tokens at one time


def train_on(
    base: Path, inputs: list[Path], size: int, out: Path, *, coverage: float = COVERAGE,
    progress: Progress | None = None, verify: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Writes a folder with the base's tokenizer.json and new merges learnt from the files, `size` entries in all.

    Returns the manifest. `coverage` is the share of the text's CJK characters that get a token of their own. Raises
    ConfigError where the text has too few merges, DataError where it has no CJK characters.
    """
    given = bpe.read(base)
    need = _need(given, size)
    config = {"size": size, "coverage": coverage, "longest": LONGEST, "beside": given.beside()}
    with stage(out, name="tokenizer_train_on", config=config, inputs=[given.file, *inputs], verify=verify) as run:
        if run.done:
            return run.manifest or {}
        chosen, figures = _learnt(given, inputs, need, coverage, progress)
        if not chosen:
            raise DataError(f"{', '.join(map(str, inputs))}: no merge can be learnt from this text; give more of it")
        if len(chosen) < need:
            raise ConfigError(
                f"--vocab-size {size} is too large: this text has merges for {given.described.size + len(chosen)}"
                f" entries only; give more text, or --vocab-size {given.described.size + len(chosen)}"
            )
        _write(given, chosen, run.tmp)
        parts = sum(not bpe.whole(first + second) for first, second in chosen)
        run.figures = {"vocab_size": size, "new_pieces": need, "parts_of_characters": parts} | figures
    return run.manifest or {}


def trainable(base: Path, inputs: list[Path], size: int) -> int:
    """How many entries `train_on` makes of the files, at most `size`. Give it small files: it does the same work.

    DataError where they hold no Chinese text."""
    given = bpe.read(base)
    return given.described.size + len(_learnt(given, inputs, _need(given, size), COVERAGE, None)[0])


def _learnt(
    base: Base, inputs: list[Path], need: int, coverage: float, progress: Progress | None
) -> tuple[list[Pair], dict[str, int]]:
    """(The first `need` merges that the text gives, or fewer; how much was read)."""
    counts = Counter[str]()
    figures = {"lines": 0, "characters": 0}
    for line in _lines(inputs, progress and progress("counted", "GB")):
        counts.update(filter(bpe.own, line))
        figures["lines"] += 1
        figures["characters"] += len(line)
    if not counts:
        raise DataError(f"{', '.join(map(str, inputs))}: no Chinese text to train on; give files that hold some")
    characters = _characters(base, counts, coverage)
    cut = bpe.made(bpe.with_merges(base, characters))
    words = _words(cut, _lines(inputs, progress and progress("cut into tokens", "GB")))
    pairs = [*characters, *_merges(cut, words, int(SPARE * need) + 100)]
    usable = choose(base, pairs, len(pairs))
    ranked = _by_count(base, usable, _lines(inputs, progress and progress("ranked", "GB")))
    return choose(base, ranked, need), figures


def extend(base: Path, new: Path, size: int, out: Path, *, verify: bool = False) -> dict[str, Any]:
    """Writes a tokenizer folder of exactly `size` entries: the base, and the first merges of `new`.

    Returns the manifest. Raises ConfigError where `new` is not made of the base, or has too few merges.
    """
    given = bpe.read(base)
    learnt = bpe.new_merges(given, bpe.read(new))
    need = _need(given, size)
    config = {"size": size, "beside": given.beside()}
    with stage(out, name="tokenizer_extend", config=config, inputs=[given.file, new], verify=verify) as run:
        if run.done:
            return run.manifest or {}
        chosen = choose(given, learnt, need)
        if len(chosen) < need:
            raise ConfigError(
                f"only {len(chosen)} of the {len(learnt)} merges of {new} can be added, {need} are needed for"
                f" vocab_size={size}; train the new model larger"
                + (f", or ask for {given.described.size + len(chosen)} at most" if chosen else " or on other text")
            )
        _write(given, chosen, run.tmp)
        parts = sum(not bpe.whole(first + second) for first, second in chosen)
        run.figures = {
            "vocab_size": size,
            "base_pieces": given.described.size,
            "new_pieces": need,
            "parts_of_characters": parts,
            "survivors": len(learnt),
        }
    return run.manifest or {}


def choose(base: Base, pairs: list[Pair], count: int) -> list[Pair]:
    """The first `count` of the merges that may be added and whose results some text gives; fewer where there are not
    enough. A merge of a part that is left out is left out too."""
    old = base.vocab | {text: i for i, text in base.described.added.items()}
    left_out = {a + b for a, b in pairs if a + b in old or not bpe.allowed((a, b)) or _length(a + b) > LONGEST}
    while True:
        known, chosen = set(base.vocab), list[Pair]()
        for first, second in pairs:
            token = first + second
            if len(chosen) == count:
                break
            if token not in left_out and token not in known and first in known and second in known:
                known.add(token)
                chosen.append((first, second))
        cut = bpe.made(bpe.with_merges(base, chosen))
        size = base.described.size
        gone = set(bpe.dead(cut, ((a + b, size + n) for n, (a, b) in enumerate(chosen))))
        if not gone:
            return chosen
        for token in gone:
            # A beginning is dead where each of its characters has a token. The rarest of them gives way.
            whole = [a + b for a, b in chosen if a == token and bpe.whole(a + b)]
            left_out.add(token if bpe.whole(token) or not whole else whole[-1])


def _need(base: Base, size: int) -> int:
    need = size - base.described.size
    if need < 1:
        raise ConfigError(
            f"vocab_size={size} leaves {need} new entries after {base.described.size} of {base.described.folder};"
            f" give at least {base.described.size + 1}"
        )
    return need


def _length(token: str) -> int:
    return len(bpe.bytes_of(token).decode(errors="replace"))


def _lines(inputs: list[Path], report: Callable[[int, int], None] | None) -> Iterator[str]:
    for _, text, _ in read_all(inputs, report):
        yield from split_lines(text)


def _characters(base: Base, counts: Counter[str], coverage: float) -> list[Pair]:
    """The merges that make a token of each character that the base spells in several, the most common first."""
    cut, wanted = bpe.made(base.described.content), coverage * counts.total()
    texts = {i: text for text, i in base.vocab.items()}
    pairs: dict[Pair, None] = {}
    covered = 0
    for character, count in sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])):
        if covered >= wanted:
            break
        covered += count
        ids = cut.encode(character, add_special_tokens=False).ids
        parts = [texts.get(i, "") for i in ids]
        if bpe.token_of(character.encode()) != "".join(parts):  # normalised, or an added token
            continue
        chain = list[Pair]()
        joined = parts[0]
        for part in parts[1:]:
            chain.append((joined, part))
            joined += part
        if all(map(bpe.allowed, chain)) and not any(a + b in base.vocab for a, b in chain):
            pairs |= dict.fromkeys(chain)
    return list(pairs)


def _words(cut: tokenizers.Tokenizer, lines: Iterable[str]) -> Iterator[str]:
    """Runs of tokens of whole CJK characters inside one word of the pre-tokenizer, a code point for each token."""
    for batch in _batches(lines):
        for encoded in cut.encode_batch(batch, add_special_tokens=False):
            yield from _runs(encoded)


def _batches(lines: Iterable[str]) -> Iterator[list[str]]:
    left = iter(lines)
    while batch := list(itertools.islice(left, BATCH)):
        yield batch


def _runs(encoded: tokenizers.Encoding) -> Iterator[str]:
    run: list[str] = []
    before: int | None = None
    for i, token, word in zip(encoded.ids, encoded.tokens, encoded.word_ids, strict=True):
        joins = bpe.whole(token)
        if run and (word != before or not joins):
            yield "".join(run)
            run.clear()
        if joins:
            run.append(chr(FIRST + i))
        before = word
    if run:
        yield "".join(run)


def _merges(cut: tokenizers.Tokenizer, words: Iterable[str], count: int) -> list[Pair]:
    """At most `count` merges in the order in which a BPE trainer finds them."""
    counter = tokenizers.Tokenizer(models.BPE())
    texts = {i: text for text, i in cut.get_vocab(with_added_tokens=False).items()}
    units = sum(map(bpe.whole, texts.values()))  # those of them that occur have an entry beside the merges
    trainer = trainers.BpeTrainer(
        vocab_size=units + count, min_frequency=2, show_progress=False, max_token_length=LONGEST, special_tokens=[]
    )
    counter.train_from_iterator(words, trainer)
    found = json.loads(counter.to_str())["model"]["merges"][:count]

    def token(run: str) -> str:
        return "".join(texts[ord(unit) - FIRST] for unit in run)

    return [(token(first), token(second)) for first, second in found]


def _by_count(base: Base, pairs: list[Pair], lines: Iterable[str]) -> list[Pair]:
    """The merges in the order of how often they are applied to the text."""
    cut, counts = bpe.made(bpe.with_merges(base, pairs)), Counter[int]()
    for batch in _batches(lines):
        for encoded in cut.encode_batch_fast(batch, add_special_tokens=False):
            counts.update(encoded.ids)
    times = {a + b: counts[base.described.size + n] for n, (a, b) in enumerate(pairs)}
    for first, second in reversed(pairs):  # whoever forms a token has formed its parts
        for part in (first, second):
            if part in times:
                times[part] += times[first + second]
    return sorted(pairs, key=lambda pair: -times["".join(pair)])


def _write(base: Base, pairs: list[Pair], out: Path) -> None:
    """Writes tokenizer.json with the merges, and the other files of the base as they are."""
    text = json.dumps(bpe.with_merges(base, pairs), ensure_ascii=False, separators=(",", ":"))
    (out / FAST_FILE).write_text(text, encoding="utf-8")
    for name in bpe.BESIDE:
        if (file := base.described.folder / name).is_file():
            shutil.copyfile(paths.fetched(file), out / name)
