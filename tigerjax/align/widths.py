"""Rows of a width that fits them: a prompt with many answers does not make the rows of all others as wide.

A batch has one width C for all of its rows, and every place of a row costs the same whether it holds an answer or not.
So prompts are grouped by their number of answers, and a prompt of more than MOST_ANSWERS is cut into several rows:

    60 pairs of different answers                 60 rows of 2 answers
    1 best answer and 59 worse ones                7 rows of at most 16 answers, each with the best one
    a ranking of 60 answers                       28 rows of at most 16 answers

Each of its pairs stands in one of these rows, with the weight that it has. So the loss sums over the same pairs, and
the prompt still counts once.
"""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence

from tigerjax.align.reward_data import LENGTH_MULTIPLE, Comparison, Pair, RewardBatch, to_batch
from tigerjax.tokenizer.load import Tokenizer

MOST_ANSWERS = 16
"""The most answers in one row. A round samples 10 answers to a prompt by default."""


def to_batches(
    comparisons: Sequence[Comparison], tok: Tokenizer, *, seq_len: int, multiple: int = LENGTH_MULTIPLE
) -> list[RewardBatch]:
    """All comparisons as groups for a `PairLoader`: those of 2 answers, of 3 and 4, of 5 to 8, and of 9 to 16.

    The width of a group is the largest number of answers in it, and its length that of its longest chat, rounded up to
    a multiple of `multiple`.
    """
    groups: dict[int, list[Comparison]] = defaultdict(list)
    for comparison in comparisons:
        for row in cut(comparison, [1] * len(comparison.answers), MOST_ANSWERS):
            groups[(len(row.answers) - 1).bit_length()].append(row)
    return [to_batch(groups[size], tok, seq_len=seq_len, multiple=multiple) for size in sorted(groups)]


def cut(comparison: Comparison, sizes: Sequence[int], room: int) -> list[Comparison]:
    """The comparison itself, or parts of it where the sizes of its answers sum to more than `room`.

    In each part they sum to at most `room`. Every pair stands in exactly one part. A single answer takes at most half
    of the room.
    """
    if sum(sizes) <= room:
        return [comparison]
    out: list[Comparison] = []
    for pairs in _connected(comparison.pairs):
        answers = sorted({i for pair in pairs for i in (pair.winner, pair.loser)})
        whole = sum(sizes[answer] for answer in answers) <= room
        block = _blocks(answers, sizes, room if whole else room // 2)
        by_blocks: dict[tuple[int, int], list[Pair]] = defaultdict(list)
        for pair in pairs:
            first, second = sorted((block[pair.winner], block[pair.loser]))
            by_blocks[first, second].append(pair)
        out += [_part(comparison, [*own]) for own in _with_inner(by_blocks)]
    return out


def _blocks(answers: Sequence[int], sizes: Sequence[int], most: int) -> dict[int, int]:
    """The number of each answer's block; the sizes of a block sum to at most `most`."""
    block, number, used = {}, 0, 0
    for answer in answers:
        if used + sizes[answer] > most:
            number, used = number + 1, 0
        block[answer] = number
        used += sizes[answer]
    return block


def _connected(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The pairs in parts that share no answer, in the order of their first pairs."""
    part = {answer: answer for pair in pairs for answer in (pair.winner, pair.loser)}

    def root(answer: int) -> int:
        while part[answer] != answer:
            part[answer] = part[part[answer]]
            answer = part[answer]
        return answer

    for pair in pairs:
        part[root(pair.loser)] = root(pair.winner)
    parts: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        parts[root(pair.winner)].append(pair)
    return list(parts.values())


def _with_inner(by_blocks: dict[tuple[int, int], list[Pair]]) -> Iterator[list[Pair]]:
    """The pairs of each two blocks. Those inside one block join the first row that has this block."""
    inner = {blocks[0]: pairs for blocks, pairs in by_blocks.items() if blocks[0] == blocks[1]}
    for blocks, pairs in sorted(by_blocks.items(), key=lambda item: item[0]):
        if blocks[0] != blocks[1]:
            yield [*pairs, *(pair for block in blocks for pair in inner.pop(block, []))]
    yield from inner.values()


def _part(comparison: Comparison, pairs: Sequence[Pair]) -> Comparison:
    """A comparison of these pairs alone, which keep their weights."""
    used = sorted({i for pair in pairs for i in (pair.winner, pair.loser)})
    place = {answer: i for i, answer in enumerate(used)}
    return dataclasses.replace(
        comparison,
        answers=tuple(comparison.answers[answer] for answer in used),
        pairs=tuple(p._replace(winner=place[p.winner], loser=place[p.loser]) for p in pairs),
    )
