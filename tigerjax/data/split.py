"""Which records of a source are held out of training: a share of them, by a hash of their ids.

The hash depends on nothing but the id, so a record stays on its side when others come and go. Near duplicates belong on
one side, else a model is measured on what it has read. `tigerjax data dedup near` lists them in clusters, and the
records of a cluster are hashed by one id, the smallest of the cluster.
"""

import dataclasses
from pathlib import Path

from tigerjax.config.ranges import Range
from tigerjax.errors import ConfigError, DataError
from tigerjax.files import jsonl, paths
from tigerjax.records import first_of

CLUSTERS = Path("clusters") / "clusters.jsonl"
"""Below the folder that `tigerjax data dedup` wrote."""
SHARES = Range(0, 1, below=True)


@dataclasses.dataclass(frozen=True, slots=True)
class Split:
    """A share of the records is held out; `clusters` are files of near duplicates, or folders of `data dedup`."""

    share: float = 0.0
    clusters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.clusters and not self.share:
            raise ConfigError("Source clusters say what is held out together, but held_out=0 holds nothing out; set it")

    def files(self) -> list[Path]:
        """The files of clusters. DataError for one that is not there."""
        found = []
        for given in map(paths.of, self.clusters):
            path = given / CLUSTERS if given.is_dir() else given
            if not path.is_file():
                raise DataError(f"{path}: no such file; name the folder that `tigerjax data dedup near` wrote")
            found.append(path)
        return found

    def chooser(self) -> "Chooser":
        """What says of each id whether it is held out."""
        return Chooser(self)


NOTHING = Split()


class Chooser:
    """Says whether the record of an id is held out."""

    def __init__(self, split: Split):
        import xxhash

        self._limit, self._hash = int(split.share * 2**64), xxhash.xxh3_64_intdigest
        self._files = split.files()
        self._first = _joined(self._files)
        self.in_clusters = 0
        """Of the records that were asked for, how many stand in a cluster."""

    def __call__(self, identity: str) -> bool:
        first = self._first.get(identity)
        if first is not None:
            self.in_clusters += 1
        key = first_of(identity) if first is None else first
        return bool(self._hash(f"held out {key}".encode("utf-8", "surrogatepass")) < self._limit)

    def refuse_strangers(self) -> None:
        """Called after all records. DataError where there are clusters and none of the records stands in one."""
        if self._first and not self.in_clusters:
            raise DataError(
                f"{self._files[0]}: none of its ids, such as {next(iter(self._first))!r}, is an id of the source's"
                " records; name the clusters of these files, as `tigerjax data dedup near` wrote them"
            )


def _joined(files: list[Path]) -> dict[str, str]:
    """{id: the smallest id of its cluster}; clusters of several files that share an id are one."""
    parent: dict[str, str] = {}

    def root(identity: str) -> str:
        while (above := parent.setdefault(identity, identity)) != identity:
            parent[identity] = parent[above]
            identity = above
        return identity

    for path in files:
        for number, line in jsonl.read_jsonl(path):
            members = line.get("all")
            if not isinstance(members, list) or not all(isinstance(member, str) for member in members):
                raise DataError(f"{path}:{number}: needs 'all', a list of ids, as `tigerjax data dedup` writes it")
            for member in members:
                one, other = sorted((root(members[0]), root(member)))
                parent[other] = one
    return {identity: root(identity) for identity in list(parent)}
