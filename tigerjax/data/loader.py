"""Reads batches from cached rows: exact shares at every prefix, a state of a few integers, each host's own rows.

The order of sources is a fixed schedule; nothing is drawn. The order within a source is a permutation that depends
only on (seed, source, epoch). So the number of rows taken from each source determines the position.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.config.files import RENAMED
from tigerjax.data.row_files import AGAIN, FIGURES, RowFiles
from tigerjax.data.rows import Batch, make_batch
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths


def next_source(rates: Sequence[float], counts: Sequence[int]) -> int:
    """The index of the source that gives the next row, after `counts` rows of each; `rates` sum to 1.

    The deficit of a source is rate x (rows so far + 1) - its count. Of the k sources, those with a deficit of at least
    1 / (2k - 2) may be next. The one of them that would be late first is taken. With two sources that is the one with
    the larger deficit. At every prefix, |rate x rows - count| is at most 1 - 1 / (2k - 2), which is less than 1 row
    (Tijdeman 1980, the chairman assignment problem). To always take the largest deficit has no such bound for k > 2.
    """
    k = len(rates)
    if k == 1:
        return 0
    slack, n = 1 / (2 * k - 2), sum(counts) + 1
    best, soonest = -1, float("inf")
    for i, (rate, count) in enumerate(zip(rates, counts, strict=True)):
        if rate <= 0 or rate * n - count < slack - 1e-9:  # 1e-9: rate x n is rounded
            continue
        deadline = (count + 1 - slack) / rate
        if deadline < soonest - 1e-9:
            best, soonest = i, deadline
    if best < 0:  # cannot happen in exact arithmetic: the deficits add up to 1
        best = int(np.argmax([rate * n - count for rate, count in zip(rates, counts, strict=True)]))
    return best


def schedule(rates: Sequence[float]) -> Iterator[int]:
    """The order of sources, without end. The Loader and SeqIO's `sample_fn` both follow it."""
    total = sum(rates)
    shares = [rate / total for rate in rates]
    counts = [0] * len(rates)
    while True:
        chosen = next_source(shares, counts)
        counts[chosen] += 1
        yield chosen


class CachedSource:
    """The cached rows of one source, read by index. DataError for a folder without a manifest or without rows."""

    def __init__(self, name: str, folder: str | Path, seq_len: int):
        self.name, self.folder = name, paths.of(folder)
        made = manifest.read(folder)
        if made is None:
            raise DataError(f"{folder}: source {name} has no cached rows; run `tigerjax data cache`")
        self.figures: dict[str, Any] = made.get("figures", {})
        for figure, kind in {**FIGURES, "seq_len": int}.items():
            if not isinstance(self.figures.get(figure), kind):
                raise DataError(f"{self.folder / manifest.FILE}: figures lacks {figure}; {AGAIN}")
        self.rows: int = self.figures["rows"]
        if self.figures["seq_len"] != seq_len:
            raise DataError(
                f"{folder}: rows of {self.figures['seq_len']} tokens, but data.seq_len={seq_len};"
                " run `tigerjax data cache` again"
            )
        if not self.rows:
            raise DataError(f"{folder}: source {name} has no rows; remove the folder, the next start makes it again")
        manifest.refuse_changed([self.folder])
        self._files = RowFiles(self.folder, self.figures, seq_len)
        self._order: tuple[int, np.ndarray] | None = None

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The rows [n, 3, L] at these indices. DataError for a damaged row: each has a checksum."""
        return self._files.read(indices)

    def index(self, count: int, seed: int) -> int:
        """The index of the row that is read after `count` others: each epoch is a permutation of all rows."""
        epoch, at = divmod(count, self.rows)
        if self._order is None or self._order[0] != epoch:
            rng = np.random.Generator(
                np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(self.name.encode()), epoch]))
            )
            self._order = (epoch, rng.permutation(self.rows))
        return int(self._order[1][at])


class Loader:
    """An iterator of `Batch` without end.

    `rates` are token shares, on any positive scale. `mine` are the rows of each global batch that this host reads
    (`mesh.host_rows`); None reads all. To read a source more often than its `max_epochs` is a ConfigError.
    """

    def __init__(
        self,
        sources: Mapping[str, str | Path],
        rates: Mapping[str, float],
        batch_rows: int,
        seq_len: int,
        seed: int,
        *,
        mine: Sequence[int] | None = None,
        max_epochs: Mapping[str, float | None] | None = None,
    ):
        if set(sources) != set(rates) or not sources:
            raise ConfigError(f"sources {sorted(sources)} and rates {sorted(rates)} must name the same tasks")
        if min(rates.values()) < 0 or sum(rates.values()) <= 0:
            raise ConfigError(f"rates {dict(rates)} must not be negative, and must not all be 0")
        self.mine = list(range(batch_rows) if mine is None else mine)
        if set(self.mine) - set(range(batch_rows)):
            raise ConfigError(
                f"rows {self.mine} of a batch of batch_rows={batch_rows} are asked for; give rows below it"
            )
        self.names = sorted(sources)
        total = sum(rates.values())
        self.rates = {name: rates[name] / total for name in self.names}
        self.batch_rows, self.seq_len, self.seed = batch_rows, seq_len, seed
        self.sources = [CachedSource(name, sources[name], seq_len) for name in self.names]
        made_with = {s.figures.get("tokenizer_sha256") for s in self.sources} - {None}
        if len(made_with) > 1:
            raise DataError(
                f"rows of {self.names} were made with {len(made_with)} tokenizers; make them again with one"
            )
        self.tokenizer_sha256: str | None = next(iter(made_with), None)
        """Of the tokenizer that made the rows. A checkpoint records it, and training refuses another one."""
        self.vocab_size: int | None = None
        """The entries of that tokenizer, where it is known. The model's vocabulary must have as many."""
        self._limits = [(max_epochs or {}).get(name) for name in self.names]
        self._shares = [self.rates[name] for name in self.names]
        self._counts = [0] * len(self.names)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        counts = list(self._counts)
        picks: list[tuple[int, int]] = []  # (source, row) of the global batch
        for _ in range(self.batch_rows):
            chosen = next_source(self._shares, counts)
            source, limit = self.sources[chosen], self._limits[chosen]
            if limit is not None and counts[chosen] >= limit * source.rows:
                raise ConfigError(
                    f"source {source.name} is exhausted: {source.rows} rows x max_epochs={limit} are used;"
                    " add data, lower its share, train fewer steps or raise max_epochs"
                )
            picks.append((chosen, counts[chosen]))
            counts[chosen] += 1
        mine = [picks[row] for row in self.mine]
        rows = np.empty((len(mine), 3, self.seq_len), np.int32)
        for s, source in enumerate(self.sources):
            places = [i for i, (chosen, _) in enumerate(mine) if chosen == s]
            if places:
                rows[places] = source.read([source.index(mine[i][1], self.seed) for i in places])
        self._counts = counts
        return make_batch(rows)

    def rows(self) -> dict[str, int]:
        """The number of cached rows of each source."""
        return {s.name: s.rows for s in self.sources}

    def seen(self) -> dict[str, dict[str, float]]:
        """For each source, over all hosts: tokens read, their share of all tokens, and epochs (1.5: one and a half)."""
        tokens = {
            s.name: count * s.figures["tokens"] / s.rows for s, count in zip(self.sources, self._counts, strict=True)
        }
        total = sum(tokens.values())
        return {
            s.name: {
                "tokens": round(tokens[s.name]),
                "share": tokens[s.name] / total if total else 0.0,
                "epoch": count / s.rows,
            }
            for s, count in zip(self.sources, self._counts, strict=True)
        }

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as JSON: the number of rows read from each source, and what these sources were."""
        return {
            "seed": self.seed,
            "batch_rows": self.batch_rows,  # the key of 0.2.0, so that its checkpoints resume
            "seq_len": self.seq_len,
            "counts": dict(zip(self.names, self._counts, strict=True)),
            "rates": self.rates,
            "rows_sha256": {s.name: s.figures["rows_sha256"] for s in self.sources},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the position of `state`. ConfigError, with what differs, where the next batches would differ.

        Raises DataError for a position that is damaged.
        """
        if not isinstance(state, Mapping):
            raise DataError(
                f"cannot resume: the checkpoint's data position is {str(state)[:60]!r};"
                " resume from an earlier checkpoint"
            )
        mine = json.loads(json.dumps(self.state()))
        for key in ("seed", "batch_rows", "seq_len", "rates", "rows_sha256"):
            if state.get(key) != mine[key]:
                shown = RENAMED.get(key, key)
                raise ConfigError(
                    f"cannot resume exactly: data {shown} was {state.get(key)} in the checkpoint and is {mine[key]}"
                    " now; restore the old data and config, or start a new run"
                )
        counts = [state.get("counts", {}).get(name) for name in self.names]
        if any(type(count) is not int or count < 0 for count in counts):
            raise DataError(
                f"cannot resume: the checkpoint says that {counts} rows of {self.names} were read;"
                " resume from an earlier checkpoint"
            )
        self._counts = counts


def check_epochs(sources: Mapping[str, tuple[float, int, float | None]], total_rows: int) -> None:
    """ConfigError with a table when training on `total_rows` would pass the max_epochs of a source.

    `sources` are {name: (share, rows, max_epochs)}.
    """
    lines, short = [], False
    for name, (share, available, limit) in sorted(sources.items()):
        needed = share * total_rows
        bad = limit is not None and needed > limit * available
        short |= bad
        lines.append(
            f"  {name:32} {share:7.4f} {needed:12.0f} {available:10} {needed / available:8.2f}"
            f" {'-' if limit is None else limit:>10}{'  EXHAUSTED' if bad else ''}"
        )
    if short:
        head = f"  {'source':32} {'share':>7} {'rows needed':>12} {'available':>10} {'epochs':>8} {'max_epochs':>10}"
        raise ConfigError(
            f"{total_rows} rows need more than max_epochs of a source; add data, train fewer steps, lower its share"
            " or raise max_epochs\n" + "\n".join([head, *lines])
        )
