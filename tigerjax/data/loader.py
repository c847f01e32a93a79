"""Reads batches from cached rows: exact shares at every prefix, a state of a few integers, each host's own rows.

The order of sources is a fixed schedule (`data.schedule`); nothing is drawn. The order within a source is a permutation
that depends only on (seed, source, epoch). So the number of rows taken from each source, in all and in the present
phase, determines the position.
"""

import bisect
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tigerjax.config.files import RENAMED
from tigerjax.data.row_files import AGAIN, FIGURES, RowFiles
from tigerjax.data.rows import Batch, make_batch
from tigerjax.data.schedule import Phase
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import manifest, paths


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
        passes = self.figures.get("passes") or [self.rows]
        if sum(passes) != self.rows or not all(passes):
            raise DataError(f"{self.folder / manifest.FILE}: passes of {passes} rows are not its {self.rows}; {AGAIN}")
        self._firsts = np.cumsum([0, *passes]).tolist()
        self.epoch_rows: float = self.rows / len(passes)
        """The rows of an epoch, of the mean one where rows were made for several passes."""
        manifest.refuse_changed([self.folder])
        self._files = RowFiles(self.folder, self.figures, seq_len)
        self._order: tuple[int, np.ndarray] | None = None

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """The rows [n, 3, L] at these indices. DataError for a damaged row: each has a checksum."""
        return self._files.read(indices)

    def index(self, count: int, seed: int) -> int:
        """The index of the row that is read after `count` others: each epoch is a permutation of the rows of its pass.

        Most sources have one pass, of all rows. After the last pass comes the first one again.
        """
        cycle, at = divmod(count, self.rows)
        number = bisect.bisect_right(self._firsts, at) - 1
        first, epoch = self._firsts[number], cycle * (len(self._firsts) - 1) + number
        if self._order is None or self._order[0] != epoch:
            rng = np.random.Generator(
                np.random.Philox(np.random.SeedSequence([seed, zlib.crc32(self.name.encode()), epoch]))
            )
            self._order = (epoch, rng.permutation(self._firsts[number + 1] - first))
        return first + int(self._order[1][at - first])


class Loader:
    """An iterator of `Batch` without end.

    `rates` are token shares, on any positive scale, or the phases of a run whose shares move; the first phase begins at
    row 0, and each at a whole batch. `mine` are the rows of each global batch that this host reads (`mesh.host_rows`);
    None reads all. To read a source more often than its `max_epochs` is a ConfigError.
    """

    def __init__(
        self,
        sources: Mapping[str, str | Path],
        rates: Mapping[str, float] | Sequence[Phase],
        batch_rows: int,
        seq_len: int,
        seed: int,
        *,
        mine: Sequence[int] | None = None,
        max_epochs: Mapping[str, float | None] | None = None,
    ):
        self.phases = [Phase(rates)] if isinstance(rates, Mapping) else list(rates)
        named = {name for phase in self.phases for name in phase.rates}
        if set(sources) != named or not sources:
            raise ConfigError(f"sources {sorted(sources)} and rates {sorted(named)} must name the same tasks")
        for phase in self.phases:
            if min(phase.rates.values()) < 0 or sum(phase.rates.values()) <= 0:
                raise ConfigError(f"rates {dict(phase.rates)} must not be negative, and must not all be 0")
        self.mine = list(range(batch_rows) if mine is None else mine)
        if set(self.mine) - set(range(batch_rows)):
            raise ConfigError(
                f"rows {self.mine} of a batch of batch_rows={batch_rows} are asked for; give rows below it"
            )
        self.names = sorted(sources)
        total = sum(self.phases[0].rates.values())
        self.rates = {name: self.phases[0].rates.get(name, 0.0) / total for name in self.names}
        """The shares of the first phase."""
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
        self._at = {name: place for place, name in enumerate(self.names)}
        self._counts = [0] * len(self.names)
        self._phase, self._in_phase = 0, [0] * len(self.phases[0].names)

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> Batch:
        counts = list(self._counts)
        number, in_phase = self._now(sum(counts))
        phase = self.phases[number]
        places = [self._at[name] for name in phase.names]
        picks: list[tuple[int, int]] = []  # (source, row) of the global batch
        for _ in range(self.batch_rows):
            of_phase = phase.next(in_phase)
            chosen = places[of_phase]
            source, limit = self.sources[chosen], self._limits[chosen]
            if limit is not None and counts[chosen] >= limit * source.epoch_rows:
                raise ConfigError(
                    f"source {source.name} is exhausted: {source.epoch_rows:g} rows x max_epochs={limit} are used;"
                    " add data, lower its share, train fewer steps or raise max_epochs"
                )
            picks.append((chosen, counts[chosen]))
            counts[chosen] += 1
            in_phase[of_phase] += 1
        mine = [picks[row] for row in self.mine]
        rows = np.empty((len(mine), 3, self.seq_len), np.int32)
        for s, source in enumerate(self.sources):
            here = [i for i, (chosen, _) in enumerate(mine) if chosen == s]
            if here:
                rows[here] = source.read([source.index(mine[i][1], self.seed) for i in here])
        self._counts, self._phase, self._in_phase = counts, number, in_phase
        return make_batch(rows)

    def _now(self, row: int) -> tuple[int, list[int]]:
        """The phase of a row that is read next, and how many rows each of its sources has given in it."""
        number = self._phase
        while number + 1 < len(self.phases) and self.phases[number + 1].first <= row:
            number += 1
        if number == self._phase:
            return number, list(self._in_phase)
        return number, [0] * len(self.phases[number].names)

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
                "epoch": count / s.epoch_rows,
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
        } | self._phase_state()

    def _phase_state(self) -> dict[str, Any]:
        """Of a run with phases: what they are, and the rows read of each source of the present one."""
        if len(self.phases) == 1:
            return {}
        names = self.phases[self._phase].names
        later = [{"first": p.first, "ramp": p.ramp, "rates": dict(sorted(p.rates.items()))} for p in self.phases[1:]]
        return {"phases": later, "in_phase": dict(zip(names, self._in_phase, strict=True))}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to the position of `state`. A phase that had not begun there may be another one now.

        Raises ConfigError, with what differs, where the batches up to there would differ, DataError for a position that
        is damaged.
        """
        if not isinstance(state, Mapping):
            raise DataError(
                f"cannot resume: the checkpoint's data position is {state!r:.60}; resume from an earlier checkpoint"
            )
        mine: dict[str, Any] = json.loads(json.dumps(self.state()))
        _refuse_other(state, mine, ("seed", "batch_rows", "seq_len"))
        counts = state.get("counts")
        counts = counts if isinstance(counts, Mapping) else {}
        read = [counts.get(name, None if name in self.phases[0].rates else 0) for name in self.names]
        in_all = {*self.names, *counts}
        if any(type(count) is not int or count < 0 for count in (*read, *counts.values())):
            raise DataError(
                f"cannot resume: the checkpoint says that {[counts.get(name) for name in sorted(in_all)]} rows of"
                f" {sorted(in_all)} were read; resume from an earlier checkpoint"
            )
        row = sum(counts.values())
        _refuse_other(_begun(state, row), _begun(mine, row), ("rates", "phases", "rows_sha256"))
        self._phase = max(n for n, phase in enumerate(self.phases) if n == 0 or phase.first < row)
        names = self.phases[self._phase].names
        first = {name: counts[name] for name in names if name in counts}
        in_phase = first if self._phase == 0 else state.get("in_phase")
        if not isinstance(in_phase, Mapping) or sorted(in_phase) != names:
            raise DataError(
                f"cannot resume: the checkpoint says that {str(in_phase)[:60]} rows of {names} were read in this phase;"
                " resume from an earlier checkpoint"
            )
        self._counts, self._in_phase = read, [in_phase[name] for name in names]


def _refuse_other(state: Mapping[str, Any], mine: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        if state.get(key) != mine.get(key):
            shown = RENAMED.get(key, key)
            raise ConfigError(
                f"cannot resume exactly: data {shown} was {state.get(key)} in the checkpoint and is {mine.get(key)}"
                " now; restore the old data and config, or start a new run"
            )


def _begun(state: Mapping[str, Any], row: int) -> dict[str, Any]:
    """Of a position, what decided the first `row` rows: later phases, and sources that only they read, may differ."""
    rates = {name: rate for name, rate in (state.get("rates") or {}).items() if rate}
    later = [phase for phase in state.get("phases", []) if phase["first"] < row]
    names = {*rates, *(name for phase in later for name in phase["rates"])}
    hashes = {name: sha for name, sha in (state.get("rows_sha256") or {}).items() if name in names}
    return {"rates": rates, "rows_sha256": hashes} | ({"phases": later} if later else {})


def check_epochs(sources: Mapping[str, tuple[float, float, float | None]], total_rows: int) -> None:
    """ConfigError with a table when training on `total_rows` would pass the max_epochs of a source.

    `sources` are {name: (rows needed, rows there, max_epochs)}.
    """
    lines, short = [], False
    for name, (needed, available, limit) in sorted(sources.items()):
        bad = limit is not None and needed > limit * available
        short |= bad
        lines.append(
            f"  {name:32} {needed / total_rows:7.4f} {needed:12.0f} {available:10.0f} {needed / available:8.2f}"
            f" {'-' if limit is None else limit:>10}{'  EXHAUSTED' if bad else ''}"
        )
    if short:
        head = f"  {'source':32} {'share':>7} {'rows needed':>12} {'available':>10} {'epochs':>8} {'max_epochs':>10}"
        raise ConfigError(
            f"{total_rows} rows need more than max_epochs of a source; add data, train fewer steps, lower its share"
            " or raise max_epochs\n" + "\n".join([head, *lines])
        )
