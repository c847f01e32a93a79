"""Sequences that begin alike as trees: every token is read behind what stands before it, and shared ones once."""

import numpy as np
import pytest

from tigerjax.evaluate import branches
from tigerjax.evaluate.branches import Tokens


def few_shot(rng, subjects=3, questions=9, letters=4, shots=300, vocab=500):
    """Sequences scored on their last token, as lettered answers are asked."""
    out = []
    for _ in range(subjects):
        examples = rng.integers(5, vocab, shots).tolist()
        for _ in range(questions):
            question = rng.integers(5, vocab, int(rng.integers(20, 120))).tolist()
            ids = [1, *examples, *question]
            out += [Tokens((*ids, letter), len(ids)) for letter in range(letters)]
    return out


def endings(rng, items=20, each=2, whole=False, vocab=500):
    """Sequences of a context and endings of several tokens."""
    out = []
    for _ in range(items):
        context = rng.integers(5, vocab, int(rng.integers(10, 50))).tolist()
        for _ in range(each):
            ids = (*context, *rng.integers(5, vocab, int(rng.integers(1, 40))).tolist())
            out.append(Tokens(ids, 1 if whole else len(context)))
    return out


def nested(rng):
    """Sequences of which one is the beginning of the other, the same ids scored from two places, and long ones."""
    ids = tuple(rng.integers(5, 500, 900).tolist())
    ends = [tuple(rng.integers(5, 500, n).tolist()) for n in (40, 300, 700, 3)]
    out = [Tokens(ids[:n], first) for n, first in ((40, 39), (41, 1), (41, 20), (300, 299), (301, 100), (900, 2))]
    return out + [Tokens((*ids[:200], *end), 150) for end in ends] + [Tokens((*ids[:60], 3), 60), Tokens((4, 3), 1)]


CASES = {
    "letters": few_shot,
    "endings": endings,
    "whole texts": lambda rng: endings(rng, whole=True),
    "whole texts with examples": lambda rng: [Tokens(s.ids) for s in few_shot(rng)],
    "nested": nested,
    "two levels of examples": lambda rng: [Tokens((*range(5, 60), *s.ids), s.first + 55) for s in few_shot(rng)],
    "one question": lambda rng: few_shot(rng, 1, 1, shots=30),
    "nothing": lambda rng: [],
}


@pytest.mark.parametrize("case", CASES)
def test_every_scored_token_follows_exactly_what_stands_before_it(case):
    sequences = CASES[case](np.random.default_rng(0))
    plan = branches.plan(sequences)
    found = {}
    for stem, tree in [(None, t) for t in plan.joined] + [(s, t) for s in plan.stems for t in s.trees]:
        before = () if stem is None else stem.node.ids[: stem.length]
        assert len(tree.ids) == len(tree.positions) == len(tree.ends) <= branches.WIDTHS[-1]
        for node, first, slots in tree.targets:
            assert node not in found
            found[node] = first
            for j, slot in enumerate(slots, first):
                seen = [s for s in range(slot + 1) if tree.ends[s] > slot]
                assert (*before, *(tree.ids[s] for s in seen)) == node.ids[:j]
                assert [tree.positions[s] for s in seen] == list(range(len(before), j))
    members = [one for trees in (plan.joined, *(s.trees for s in plan.stems)) for tree in trees for one in tree.members]
    members += [(n, stem.node) for stem in plan.stems for n in stem.node.members]
    assert sorted([n for n, _ in members] + plan.alone) == list(range(len(sequences)))
    stems = {stem.node for stem in plan.stems}
    for n, node in members:
        assert node.ids[: node.depth] == sequences[n].ids
        reached = node.depth
        while node is not None and reached > sequences[n].first:
            assert node in stems or max(node.start, sequences[n].first) >= found[node]
            reached, node = node.start, node.parent
        assert reached <= sequences[n].first


def computed(sequences):
    """(tokens read, tokens read when every sequence is alone)."""
    plan = branches.plan(sequences)
    trees = sum(len(t.ids) for t in plan.joined) + sum(s.length + sum(len(t.ids) for t in s.trees) for s in plan.stems)
    return trees + sum(len(sequences[n].ids) for n in plan.alone), sum(len(s.ids) for s in sequences)


def test_examples_are_computed_once_and_letters_cost_nothing():
    rng = np.random.default_rng(1)
    sequences = few_shot(rng, subjects=5, questions=30)
    plan = branches.plan(sequences)
    assert len(plan.stems) == 5 and not plan.joined and not plan.alone
    tokens, apart = computed(sequences)
    questions = sum(len(s.ids) - 300 for s in sequences[::4])
    assert tokens < 5 * 301 + questions + 5 * 30 and tokens < apart / 17


def test_a_context_is_computed_once_for_its_endings():
    sequences = endings(np.random.default_rng(2), each=4)
    plan = branches.plan(sequences)
    assert not plan.stems and not plan.alone and len(plan.joined) == 20
    contexts = sum(s.first for s in sequences[::4])
    assert computed(sequences)[0] <= contexts + sum(len(s.ids) - s.first for s in sequences)
    rows = branches.rows(plan.joined, 512)
    assert sum(len(t.ids) for row in rows for t in row) > 0.9 * 512 * (len(rows) - 1)


def test_widths_of_rows_fit_the_trees():
    def trees(*lengths):
        return [branches.Tree([0] * n, [], [], [], []) for n in lengths]

    assert branches.widths(trees(*[150] * 64)) == [160]
    assert branches.widths(trees(*[60] * 20, 500)) == [512]
    assert branches.widths(trees(*[60] * 999, *[150] * 999)) == [64, 160]
    made = branches.plan(endings(np.random.default_rng(2), items=400)).joined
    chosen = branches.widths(made)
    slots = 0
    for less, width in zip([0, *chosen], chosen, strict=False):
        slots += width * len(branches.rows([t for t in made if less < len(t.ids) <= width], width))
    assert len(chosen) <= 3 and sum(len(t.ids) for t in made) > 0.8 * slots


def bare(*lengths):
    return [branches.Tree([0] * n, [*range(n)], [n] * n, [], []) for n in lengths]


def test_dealt_rows_are_about_equally_long_and_their_trees_alike():
    trees = branches.plan(endings(np.random.default_rng(2), items=400)).joined
    rows = branches.deal(trees, 30)
    assert sorted(map(id, trees)) == sorted(id(tree) for row in rows for tree in row) and len(rows) == 30
    lengths = [sum(len(tree.ids) for tree in row) for row in rows]
    assert max(lengths) - min(lengths) < 0.07 * max(lengths)
    for j in range(len(rows[0])):
        place = [len(row[j].ids) for row in rows if j < len(row)]
        after = [len(row[j + 1].ids) for row in rows if j + 1 < len(row)]
        assert min(place) >= max(after, default=0)
    assert [len(row) for row in branches.deal(bare(5, 4, 3), 8)] == [1, 1, 1]


def test_one_long_tree_does_not_make_every_row_longer():
    lengths = [417, *np.random.default_rng(5).integers(90, 210, 154).tolist()]
    rows = branches.deal(bare(*lengths), 20)
    filled = [sum(len(tree.ids) for tree in row) for row in rows]
    assert sum(filled) == sum(lengths) and max(filled) < 1.03 * sum(lengths) / 20
    assert all([len(tree.ids) for tree in row] == sorted((len(tree.ids) for tree in row), reverse=True) for row in rows)


def test_questions_are_not_joined_for_a_few_tokens_that_they_share():
    rng = np.random.default_rng(6)
    contexts = [tuple(range(9)) + tuple(rng.integers(5, 500, 40).tolist()) for _ in range(5)]
    alike = [Tokens((*context, *rng.integers(5, 500, 25).tolist()), 49) for context in contexts for _ in range(2)]
    assert len(branches.plan(alike).joined) == 5  # one tree saves 36 tokens, but attention reads far more keys


def test_shelves_hold_every_place_and_cost_little():
    assert branches.shelves([40, 33]) == [(2, 48)] and branches.shelves([512]) == [(1, 512)]
    lengths = [200, 198, 150, 149, 100, 70, 69, 68, 20]
    found = branches.shelves(lengths)
    widths = [width for number, width in found for _ in range(number)]
    assert len(found) == branches.SHELVES and len(widths) == len(lengths)
    assert all(width >= length and width % branches.SHELF == 0 for width, length in zip(widths, lengths, strict=True))
    assert sum(width**2 for width in widths) < 1.25 * sum(length**2 for length in lengths)


def test_trees_side_by_side_do_not_see_each_other():
    trees = branches.plan(endings(np.random.default_rng(2), items=6)).joined
    row, at = branches.side_by_side(trees), 0
    for tree in trees:
        until = at + len(tree.ids)
        assert row.ids[at:until] == tree.ids and row.positions[at:until] == tree.positions
        assert row.ends[at:until] == [at + end for end in tree.ends] and max(row.ends[at:until]) == until
        at = until
    slots = [slot for target in row.targets for slot in target.slots]
    assert len(set(slots)) <= len(slots) == sum(len(t.slots) for tree in trees for t in tree.targets)
    assert all(
        row.ids[slot] == target.node.ids[target.first + j - 1]
        for target in row.targets
        for j, slot in enumerate(target.slots)
    )


def test_sequences_that_hardly_share_are_left_alone():
    sequences = [Tokens((1, 2, 3, n, *range(10, 40)), 30) for n in range(5)]
    assert branches.plan(sequences) == branches.Plan([], [], [0, 1, 2, 3, 4])


def test_order_does_not_change_the_rows():
    sequences = few_shot(np.random.default_rng(3)) + endings(np.random.default_rng(4))
    turned = branches.plan(sequences[::-1])
    plan = branches.plan(sequences)
    assert [t.ids for t in plan.joined] == [t.ids for t in turned.joined]
    assert [[t.ids for t in s.trees] for s in plan.stems] == [[t.ids for t in s.trees] for s in turned.stems]


def test_padded_lengths_are_few_and_near():
    found = [branches.padded(n) for n in range(1, 4097)]
    assert sorted(set(found)) == [32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096]
    assert all(n <= p < max(33, 1.5 * n) for n, p in enumerate(found, 1))
