"""Which token sequences begin alike, and how they are laid out so that what they share is computed once.

The sequences become a tree: a node holds the tokens between two places where sequences part. Then one of three things
happens to each sequence:

- **joined**: small trees are dealt into rows, so that all rows are about equally long. `ends` says how far each token
  is seen, so that a token sees its own path from the root and nothing else.
- **behind a stem**: many sequences begin with the same long text, such as the examples of a few-shot task. The text is
  computed once, its keys and values are kept, and rows of small trees are read behind it.
- **alone**: it shares too little with any other.

    [5 6 7 A] [5 6 7 B] [5 8 9 C], scored from their last token on, in one row:

        ids 5 6 7 8 9   positions 0 1 2 1 2   ends 5 3 3 5 5   targets A and B after slot 2, C after slot 4
"""

import bisect
import dataclasses
import heapq
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

WIDTHS = tuple(range(64, 513, 32))
"""Slots that a row of trees behind a stem may have, the last of them also a tree without a stem. A longer tree is
divided; a longer single sequence is computed alone."""
WIDTH_COST, ATTENTION = 2048, 1200
"""What one more width costs, in slots, since it is compiled. The width at which attention costs as much as
the rest, on a CPU with 14 million parameters; with more of them it is larger."""
LEAST_SHARED, LEAST_STEM = 8, 32
"""Tokens that sequences share at least, to be joined, and to have a stem."""
STEM_COST = 64
"""What a stem costs beside its tokens, in tokens: rows behind it are its own, and the last may be nearly empty."""
SMALLEST = 32
SHELVES, SHELF = 4, 16
"""Widths at most to which trees of a row are padded where attention reads them. Each is a multiple of the second."""


class Tokens(NamedTuple):
    """Token ids, of which those from `first` on are scored (1 at least: nothing predicts the first token)."""

    ids: tuple[int, ...]
    first: int = 1


@dataclasses.dataclass(slots=True, eq=False)
class Node:
    """The tokens ids[start:depth] of all sequences under it. `logprobs` and `greedy` are of its tokens from `scored`
    on, once they are computed."""

    ids: tuple[int, ...]
    depth: int
    members: list[int] = dataclasses.field(default_factory=list)
    """Numbers of the sequences that end here."""
    children: list["Node"] = dataclasses.field(default_factory=list)
    parent: "Node | None" = None
    start: int = 0
    below: int = 0
    """Tokens of all nodes under it."""
    first: int = 2**31
    """The smallest `first` of the sequences that end here or below."""
    cost: int = 0
    """What the sequences below take in the cheapest way, in tokens."""
    how: str = "alone"
    scored: int | None = None
    logprobs: np.ndarray | None = None
    greedy: np.ndarray | None = None

    @property
    def inputs(self) -> int:
        """Where the tokens end that the model reads: nothing follows the last token of a sequence."""
        return self.depth if self.children else self.depth - 1

    @property
    def targets(self) -> range:
        """The tokens that are scored for some sequence."""
        return range(max(self.start, self.first), self.depth)

    def total(self, first: int) -> tuple[float, bool] | None:
        """(sum of log-probabilities, all greedy) of the tokens from `first` to this node's end; None when not all of
        them are computed yet."""
        logprob, greedy = 0.0, True
        node: Node | None = self
        while node is not None and node.depth > first:
            if node.logprobs is None or node.greedy is None or node.scored is None:
                return None
            since = max(0, first - node.scored)
            logprob += float(node.logprobs[since:].sum(dtype=np.float64))
            greedy = greedy and bool(node.greedy[since:].all())
            node = node.parent
        return logprob, greedy


class Target(NamedTuple):
    """Tokens that follow slots of a row: those of `node` from `first` on."""

    node: Node
    first: int
    slots: list[int]


class Tree(NamedTuple):
    """A tree as it lies in a row, its first token in slot 0. `ends` is for each slot the slot after its subtree."""

    ids: list[int]
    positions: list[int]
    ends: list[int]
    targets: list[Target]
    members: list[tuple[int, Node]]
    """The sequences that are whole when this tree is computed, and perhaps another that shares a part of it."""


class Stem(NamedTuple):
    """The text that trees begin with. Its last token is in each tree again, since it predicts what follows."""

    node: Node
    trees: list[Tree]

    @property
    def length(self) -> int:
        return self.node.depth - 1


class Plan(NamedTuple):
    """How sequences are computed; every sequence is in one of the three."""

    joined: list[Tree]
    stems: list[Stem]
    alone: list[int]


def plan(sequences: Sequence[Tokens]) -> Plan:
    """The cheapest way that this file knows. It depends on the sequences, not on their order."""
    root = _tree(sequences)
    joined: list[Tree] = []
    stems: list[Stem] = []
    alone: list[int] = []
    todo = [root]
    while todo:
        node = todo.pop()
        if node.how == "joined":
            node.parent, node.start = None, 0
            joined.append(_lay(node, 0, None))
        elif node.how == "stem":
            node.parent, node.start = None, 0
            stems.append(Stem(node, list(_behind(node, alone))))
        else:
            alone += node.members
            todo += node.children
    return Plan(joined, stems, sorted(alone))


def padded(length: int) -> int:
    """The padded length of a stem: 32, 48, 64, 96, 128, 192 …"""
    size = SMALLEST
    while size < length:
        size += size // 2 if size & (size - 1) == 0 else size // 3
    return size


def widths(trees: Sequence[Tree]) -> list[int]:
    """The widths of rows that take the least time: each tree goes into rows of the narrowest that it fits."""
    lengths = np.array([len(tree.ids) for tree in trees])
    best: dict[int, tuple[float, list[int]]] = {0: (0.0, [])}
    for width in WIDTHS:
        slots = np.ceil(width / (width // np.minimum(lengths, width))) * (1 + width / ATTENTION)
        best[width] = min(
            (cost + float(slots[(lengths > less) & (lengths <= width)].sum()) + WIDTH_COST, [*chosen, width])
            for less, (cost, chosen) in best.items()
        )
    return min(best[width] for width in WIDTHS if width >= max(lengths))[1]


def rows(trees: Sequence[Tree], width: int) -> list[list[Tree]]:
    """Trees in rows of `width` slots, by best-fit decreasing: each goes into the fullest row that has room for it."""
    filled: list[list[Tree]] = []
    space: list[tuple[int, int]] = []  # (slots left, row), sorted
    for tree in sorted(trees, key=lambda tree: -len(tree.ids)):
        at = bisect.bisect_left(space, (len(tree.ids), -1))
        left, row = space.pop(at) if at < len(space) else (width, len(filled))
        if row == len(filled):
            filled.append([])
        filled[row].append(tree)
        if left > len(tree.ids):
            bisect.insort(space, (left - len(tree.ids), row))
    return filled


def deal(trees: Sequence[Tree], count: int) -> list[list[Tree]]:
    """Trees in at most `count` rows that are about equally long: from the longest on, each goes to the row that is the
    shortest so far (Graham 1969, longest processing time first). In each row the longest tree comes first."""
    hands: list[list[Tree]] = [[] for _ in range(min(count, len(trees)))]
    lengths = [(0, row) for row in range(len(hands))]  # a heap
    for tree in sorted(trees, key=lambda tree: -len(tree.ids)):
        length, row = lengths[0]
        hands[row].append(tree)
        heapq.heapreplace(lengths, (length + len(tree.ids), row))
    return hands


def shelves(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """(number, width) of at most SHELVES shelves that hold places of these lengths, the longest first, such that
    attention over them costs the least."""
    best: dict[int, tuple[int, list[tuple[int, int]]]] = {0: (0, [])}
    for _ in range(SHELVES):
        ways = {at: [found] for at, found in best.items()}
        for at, (cost, chosen) in best.items():
            width = -(-lengths[at] // SHELF) * SHELF if at < len(lengths) else 0
            for until in range(at + 1, len(lengths) + 1):
                ways.setdefault(until, []).append((cost + (until - at) * width**2, [*chosen, (until - at, width)]))
        best = {until: min(found, key=lambda one: (one[0], len(one[1]))) for until, found in ways.items()}
    return best[len(lengths)][1]


def attention(shelves: Sequence[tuple[int, int]]) -> int:
    """What attention over these shelves takes, in slots."""
    return sum(number * width**2 for number, width in shelves) // ATTENTION


def side_by_side(trees: Sequence[Tree]) -> Tree:
    """The trees as one, each behind the last token of the one before, which it does not see."""
    out = Tree([], [], [], [], [])
    for tree in trees:
        at = len(out.ids)
        out.ids.extend(tree.ids)
        out.positions.extend(tree.positions)
        out.ends.extend(at + end for end in tree.ends)
        out.targets.extend(target._replace(slots=[at + s for s in target.slots]) for target in tree.targets)
        out.members.extend(tree.members)
    return out


def _tree(sequences: Sequence[Tokens]) -> Node:
    """The root of all sequences, with the cheapest way at each node."""
    # As bytes, big-endian, ids sort as they would as numbers, and a hundred times faster.
    keys = [np.array(sequence.ids, ">u4").tobytes() for sequence in sequences]
    open_nodes = [Node((), 0)]
    last = np.zeros(0, np.uint32)
    for n in sorted(range(len(sequences)), key=lambda n: (keys[n], sequences[n].first)):
        ids = sequences[n].ids
        array = np.frombuffer(keys[n], np.uint32)
        shortest = min(len(last), len(array))
        differ = np.flatnonzero(last[:shortest] != array[:shortest])
        shared = int(differ[0]) if len(differ) else shortest
        _close(open_nodes, shared)
        if len(ids) > shared:
            open_nodes.append(Node(ids, len(ids)))
        open_nodes[-1].members.append(n)
        open_nodes[-1].first = min(open_nodes[-1].first, sequences[n].first)
        last = array
    _close(open_nodes, 0)
    _choose(open_nodes[0])
    return open_nodes[0]


def _close(open_nodes: list[Node], depth: int) -> None:
    """Nothing more comes under the nodes deeper than `depth`; the last open node is then of that depth."""
    while open_nodes[-1].depth > depth:
        node = open_nodes.pop()
        _choose(node)
        if open_nodes[-1].depth < depth:
            open_nodes.append(Node(node.ids, depth))
        parent = open_nodes[-1]
        node.parent, node.start = parent, parent.depth
        parent.children.append(node)
        parent.below += node.depth - node.start + node.below
        parent.first = min(parent.first, node.first)


def _choose(node: Node) -> None:
    """The cheapest way for all sequences at and below `node`, whose children have chosen already."""
    node.cost = sum(child.cost for child in node.children) + len(node.members) * _whole(_power(node.depth))
    if not node.children:
        return
    length = node.depth + node.below
    if node.depth >= LEAST_SHARED and length <= WIDTHS[-1] and _whole(length) < node.cost:
        node.how, node.cost = "joined", _whole(length)
    behind = padded(node.depth - 1) + node.below + STEM_COST
    if node.depth > LEAST_STEM and behind < node.cost:
        node.how, node.cost = "stem", behind


def _whole(length: int) -> int:
    """What a tree or a sequence of this length takes, in tokens: attention reads all its keys for each of them."""
    return length + attention([(1, length)])


def _power(length: int) -> int:
    """The slots that a sequence alone takes."""
    return max(SMALLEST, 1 << (length - 1).bit_length())


def _behind(stem: Node, alone: list[int]) -> Iterator[Tree]:
    """Trees that begin with the stem's last token. Sequences that are too long for a row go to `alone`."""
    start, todo = stem.depth - 1, stem.children[::-1]
    while todo:
        node = todo.pop()
        if node.depth - start + node.below <= WIDTHS[-1]:
            yield _lay(node, start, stem)
        else:  # each of its children begins with its tokens
            alone += node.members
            todo += node.children[::-1]


def _lay(top: Node, start: int, stem: Node | None) -> Tree:
    """The tokens from `start` to `top`, then everything below."""
    ids = list(top.ids[start : top.inputs])
    tree = Tree(ids, [*range(start, start + len(ids))], [0] * len(ids), [], [])
    node: Node | None = top
    while node is not None and node is not stem:
        if node.scored is None:  # not in another tree already
            _aim(tree, node, [j - 1 - start for j in node.targets])
        node = node.parent
    tree.members.extend((n, top) for n in top.members)
    # Depth first. A node is open until a node that is not under it comes.
    opened = [(0, len(ids), 0)]  # first slot, slot after the last, level
    todo = [(child, len(ids) - 1, 1) for child in top.children[::-1]]
    while todo:
        child, before, level = todo.pop()
        while opened[-1][2] >= level:
            _shut(tree, *opened.pop())
        base = len(tree.ids)
        tree.ids.extend(child.ids[child.start : child.inputs])
        until = len(tree.ids)
        tree.positions.extend(range(child.start, child.start + until - base))
        tree.ends.extend([0] * (until - base))
        _aim(tree, child, [before if j == child.start else base + j - 1 - child.start for j in child.targets])
        tree.members.extend((n, child) for n in child.members)
        opened.append((base, until, level))
        todo += [(one, until - 1, level + 1) for one in child.children[::-1]]
    while opened:
        _shut(tree, *opened.pop())
    return tree


def _shut(tree: Tree, base: int, until: int, level: int) -> None:
    """Nothing more comes under the slots from `base` to `until`."""
    tree.ends[base:until] = [len(tree.ids)] * (until - base)


def _aim(tree: Tree, node: Node, slots: list[int]) -> None:
    node.scored = node.targets.start
    tree.targets.append(Target(node, node.scored, slots))
