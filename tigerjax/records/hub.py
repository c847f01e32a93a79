"""Files of data sets on the Hugging Face hub, by names such as hf://datasets/ORG/NAME/zh/*.parquet.

The hub's own client fetches them into its cache (HF_HOME), where they are read as files. What is there is not fetched
again, and offline (HF_HUB_OFFLINE=1) it is all there is. @REVISION behind the name chooses a commit, branch or tag.
"""

import fnmatch
import importlib.util
import re
from pathlib import Path
from typing import Any

from tigerjax.errors import ConfigError, DataError

HUB = "hf://"
COLLAPSED = "hf:/"  # what pathlib leaves of it
_NAME = re.compile(r"datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.%-]+))?(?:/(?P<pattern>.+))?")
CLIENTS = ("huggingface_hub", "httpx", "httpx2", "httpcore", "requests")
RECORDS = (
    "*.parquet *.jsonl *.jsonl.* *.ndjson *.json *.csv *.csv.* *.tsv *.tsv.* *.txt *.txt.* *.arrow *.warc* *.wet*"
).split()
"""The files of a data set that hold records, where only its name is given."""


def on_hub(path: str | Path) -> bool:
    """Whether a name is that of files on the hub; also when pathlib has made `hf:/datasets` of it."""
    return str(path).startswith(COLLAPSED)


def hub_files(name: str | Path) -> list[Path]:
    """The files that a name stands for, fetched, sorted. All files of records of a data set without a pattern.

    Raises ConfigError for a name of another form, or where the client is not installed; DataError for what the hub does
    not have or does not give.
    """
    given = str(name).removeprefix("hf:").lstrip("/")
    match = _NAME.fullmatch(given.rstrip("/"))
    if match is None:
        raise ConfigError(
            f"{HUB}{given}: names no files of the hub; write hf://datasets/ORG/NAME/FILES, such as"
            " hf://datasets/ORG/NAME@main/zh/*.parquet"
        )
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConfigError(f"{HUB}{given}: needs the hub's client; pip install huggingface_hub")
    pattern = match["pattern"]
    folder = _fetched(f"{HUB}{given}", match["repo"], match["revision"], [pattern] if pattern else RECORDS)
    below = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(str(path.relative_to(folder)) for path in below)
    found = [n for n in names if any(fnmatch.fnmatchcase(n, wanted) for wanted in ([pattern] if pattern else RECORDS))]
    if not found:
        raise DataError(f"{HUB}{given}: no such file in the data set; it is searched by fnmatch, such as zh/*.parquet")
    return [folder / name for name in found]


def _fetched(name: str, repo: str, revision: str | None, patterns: list[str]) -> Path:
    """The folder of a data set in the client's cache, with the files that match."""
    import huggingface_hub
    from huggingface_hub import errors

    how: Any = {"repo_type": "dataset", "revision": revision, "allow_patterns": patterns}
    try:
        return Path(huggingface_hub.snapshot_download(repo, **how))
    except errors.HFValidationError as error:
        raise ConfigError(f"{name}: is no name of the hub ({_line(error)}); write hf://datasets/ORG/NAME") from error
    except Exception as error:  # those of the client, and of the program below it that speaks HTTP
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise DataError(
            f"{name}: the hub does not give it ({_line(error)}); correct the name, log in with `hf auth login`, or"
            " fetch it where the hub can be reached"
        ) from error


def _line(error: Exception) -> str:
    """The first line of an error of the client, which may have many."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
