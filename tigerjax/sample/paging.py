"""Who has which pages of a cache: candidates take them as they grow, share those of their prompt, and give them back.

All of this is on the host, between two calls of `slots.advance`. Each group of devices that shares rows (a way) has
pages of its own, since no device reads the cache of another. Page 0 of each is nobody's (`tigerjax.model.cache`).

When no page is left for a candidate that grows, the one of its way that was started last is put back: it gives its
pages away and is drawn again later, from its own random key, so its answer is the same. The oldest candidate is never
put back, and a whole way has room for it. So every candidate ends.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from tigerjax.errors import ConfigError
from tigerjax.model import cache as kv

PAGE_SLOTS = 128
"""Tokens of a page: a TPU reads and writes so many at once along the last axis of an array."""
STRETCH = 32
"""A candidate has pages for so many tokens more than it has, or to its end. After so many steps, or earlier, the decode
stops for the host to hand out pages."""
NOWHERE = np.iinfo(np.int32).max
"""A page past the last."""


def in_pages(form: kv.Form, tokens: int | None, rows: int, slots: int, ways: int) -> kv.Form:
    """The form of a cache with room for `tokens` in all, or for `rows` rows of `slots` tokens where that is less. None:
    `form` itself."""
    if tokens is None:
        return form
    each = min(_pages(-(-tokens // ways)), rows // ways * _pages(slots))
    return form._replace(pages=ways * (each + 1), page_slots=PAGE_SLOTS)


def check(tokens: int | None, longest: int, ways: int) -> None:
    """ConfigError where a cache for so many tokens has no room for one candidate of `longest` tokens."""
    need = ways * _pages(longest) * PAGE_SLOTS
    if tokens is not None and _pages(-(-tokens // ways)) < _pages(longest):
        of_each = f", and each of {ways} groups of devices has a share of it" if ways > 1 else ""
        raise ConfigError(
            f"compute.cache_tokens={tokens} has no room for a prompt and its longest answer, {longest} tokens{of_each};"
            f" give at least {need}, or fewer max_new_tokens"
        )


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE_SLOTS)


class Started(NamedTuple):
    """A candidate that is started."""

    slot: int
    page_T: Any
    """The pages that its prompt is copied to; None for a cache without pages."""
    place: int
    """Of its prompt."""
    k: int
    """Its number among the candidates of the prompt."""


@dataclasses.dataclass
class _Holder:
    """A candidate in a slot."""

    way: int
    pages: list[int]
    """In the order of its tokens."""
    longest: int
    """Tokens that it writes at most: the last one drawn is not."""


class Pages:
    """The pages of one cache of `form`, for `rows` slots of up to `slots` tokens."""

    def __init__(self, form: kv.Form, rows: int, slots: int, ways: int):
        self.table_RT = np.zeros((rows, _pages(slots)), np.int32)
        self._slots_of_way, self._each = rows // ways, form.pages // ways
        self._free = [list(range(self._each - 1, 0, -1)) for _ in range(ways)]
        self._uses = np.zeros((ways, self._each), np.int64)
        self._prompts: dict[tuple[int, int], list[int]] = {}  # (way, prompt) -> its full pages, while somebody has them
        self._holders: dict[int, _Holder] = {}  # by slot, the oldest first
        self._waits = [False] * ways  # a candidate was put back, and none has ended since

    def start(self, free: Collection[int], prompt: int, length: int, limit: int) -> tuple[int, np.ndarray] | None:
        """(slot, the pages that its prompt is to be copied to) of a new candidate, which takes one of the free slots
        and pages for its prompt of `length` tokens and its first stretch. None where no way has such pages now."""
        whole, longest = length // PAGE_SLOTS, length + limit - 1
        need = _pages(min(length + STRETCH, longest))
        for slot in sorted(free, key=lambda slot: (slot // self._slots_of_way, prompt) not in self._prompts):
            way = slot // self._slots_of_way
            shared = self._prompts.get((way, prompt), [])
            if self._waits[way] or len(self._free[way]) < need - len(shared):
                continue
            pages = [*shared, *(self._free[way].pop() for _ in range(need - len(shared)))]
            self._uses[way, pages] += 1
            if whole:
                self._prompts[way, prompt] = pages[:whole]
            self._holders[slot] = _Holder(way, pages, longest)
            self._write(slot)
            copied_T = np.full(self.table_RT.shape[1], NOWHERE, np.int32)
            copied_T[len(shared) : _pages(length)] = np.array(pages[len(shared) : _pages(length)]) + way * self._each
            return slot, copied_T
        return None

    def end(self, slot: int) -> None:
        """The candidate in `slot` has ended and gives its pages back."""
        self._waits[self._holders[slot].way] = False
        self._give_back(slot)

    def grow(self, lengths: Mapping[int, int]) -> list[int]:
        """Gives each candidate pages for a stretch more than the tokens that it has written, by slot. Returns the
        slots whose candidates were put back for that, the one started last first."""
        back: list[int] = []
        for slot in [*self._holders]:
            if (holder := self._holders.get(slot)) is None:
                continue
            while len(holder.pages) < _pages(min(lengths[slot] + STRETCH, holder.longest)):
                if self._free[holder.way]:
                    holder.pages.append(page := self._free[holder.way].pop())
                    self._uses[holder.way, page] += 1
                    self._write(slot)
                    continue
                last = [other for other, its in self._holders.items() if its.way == holder.way][-1]
                self._give_back(last)
                self._waits[holder.way] = True
                back.append(last)
                if last == slot:
                    break
        return back

    def _give_back(self, slot: int) -> None:
        holder = self._holders.pop(slot)
        self.table_RT[slot] = 0
        self._uses[holder.way, holder.pages] -= 1
        gone = [page for page in holder.pages if not self._uses[holder.way, page]]
        self._free[holder.way] += gone
        self._prompts = {
            key: pages for key, pages in self._prompts.items() if key[0] != holder.way or not {*pages} & {*gone}
        }

    def _write(self, slot: int) -> None:
        pages = self._holders[slot].pages
        self.table_RT[slot, : len(pages)] = pages
