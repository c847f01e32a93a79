"""`tigerjax doctor`: looks at the machine, and says what would stand in the way of a run."""

import importlib.metadata
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tigerjax
from tigerjax.command.figures import save
from tigerjax.errors import GateFailed, TigerjaxError
from tigerjax.files import paths
from tigerjax.terminal import show

GB = 1e9
LEAST_DISK_GB = 10  # below it not even a checkpoint of a 1B model fits
LEAST_MEMORY_GB = 4  # TensorFlow, JAX and the compiler of a small model
PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
OPTIONAL = {
    "torch": "compares exports with PyTorch (make peers)",
    "transformers": "compares exports with Transformers (make peers)",
    "lm_eval": "evaluate --harness (extra eval)",
    "apache-beam": "--runner DirectRunner and others (extra beam)",
    "pyspark": "--runner spark://HOST:PORT, yarn, k8s://HOST:PORT (extra spark)",
    "wandb": "train --wandb",
}


class Finding(NamedTuple):
    """One line of the report."""

    name: str
    value: str
    trouble: str | None = None
    """What is wrong, and what to change."""


def doctor(bucket: Path | None = None, json: Path | None = None) -> None:
    """Looks at this machine: Python, packages, devices, memory, disk, and a bucket.

    Exit 5 when something would stand in the way, with what to change. In BUCKET, where it is given, a small file is
    written, read and removed. Versions are compared with what tigerjax asks for and, in a checkout, with its lock.

    Example: tigerjax doctor
    """
    found: list[Finding] = []
    for part in (_software(), _locked(), _optional(), _devices(), _machine(), _bucket(bucket)):
        for finding in part:
            found.append(finding)
            mark = "  <- " + finding.trouble if finding.trouble else ""
            show(f"{finding.name:24} {finding.value}{mark}")
    troubles = [f"{f.name}: {f.trouble}" for f in found if f.trouble]
    save({f.name: f.value for f in found} | {"troubles": troubles}, json)
    if troubles:
        raise GateFailed(f"{len(troubles)} of {len(found)} findings want a change: {'; '.join(troubles)}")
    show("all well")


def _installed(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _software() -> Iterator[Finding]:
    """Python, and every package that tigerjax asks for."""
    from packaging.requirements import Requirement

    yield Finding("python", platform.python_version(), None if sys.version_info < (3, 14) else "use 3.11, 3.12 or 3.13")
    yield Finding("tigerjax", f"{tigerjax.__version__} in {Path(tigerjax.__file__).parent}")
    try:
        asked = [Requirement(line) for line in importlib.metadata.requires("tigerjax") or []]
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "not known", "install tigerjax: pip install -e . (make venv does)")
        return
    asked = [package for package in asked if package.marker is None or package.marker.evaluate({"extra": ""})]
    wrong = []
    for package in asked:
        version = _installed(package.name)
        if version is None or version not in package.specifier:
            wrong.append(f"{package.name} is {version or 'not installed'}, needed {package.specifier or 'any'}")
    yield Finding(
        "packages", f"{len(asked)} asked for", f"{', '.join(wrong)}; make venv installs them" if wrong else None
    )
    shown = (f"{name} {version}" for name in ("jax", "flax", "libtpu") if (version := _installed(name)))
    yield Finding("jax", ", ".join(shown))


def _locked() -> Iterator[Finding]:
    """In a checkout, which packages are not those of the lock of this Python."""
    name = "requirements-py311.lock" if sys.version_info < (3, 12) else "requirements-py312.lock"
    path = Path(tigerjax.__file__).parent.parent / name
    if not path.is_file():
        return
    pinned = dict(PINNED.findall(path.read_text(encoding="utf-8")))
    other = [f"{p} {there} instead of {v}" for p, v in pinned.items() if (there := _installed(p)) not in (None, v)]
    trouble = f"{', '.join(other[:5])}; figures in docs are those of the lock: make venv" if other else None
    yield Finding(name, f"{len(pinned)} packages, {len(other)} with another version", trouble)


def _optional() -> Iterator[Finding]:
    there = [name for name in OPTIONAL if _installed(name)]
    yield Finding("optional packages", ", ".join(there) or "none")
    for name in OPTIONAL.keys() - set(there):
        yield Finding(f"  without {name}", f"no: {OPTIONAL[name]}")


def _devices() -> Iterator[Finding]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        yield Finding("devices", "none", f"{first}; free the device, or set JAX_PLATFORMS=cpu")
        return
    kinds = sorted({device.device_kind for device in devices})
    stats = devices[0].memory_stats() if devices[0].platform != "cpu" else None
    memory = f", {stats['bytes_limit'] / GB:.1f} GB each" if stats and "bytes_limit" in stats else ""
    yield Finding("devices", f"{len(devices)} x {', '.join(kinds)} ({devices[0].platform}){memory}")


def _machine() -> Iterator[Finding]:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB
    yield Finding("cores", str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()))
    low = f"at least {LEAST_MEMORY_GB} GB are needed" if memory < LEAST_MEMORY_GB else None
    yield Finding("memory", f"{memory:.1f} GB", low)
    for name, folder in (("disk, this folder", Path.cwd()), ("disk, $TMPDIR", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free / GB
        low = f"free some: checkpoints and rows need at least {LEAST_DISK_GB} GB" if free < LEAST_DISK_GB else None
        writable = os.access(folder, os.W_OK)
        yield Finding(name, f"{free:.1f} GB free", low if writable else f"{folder} cannot be written; work elsewhere")


def _bucket(folder: Path | None) -> Iterator[Finding]:
    """Whether this account may write, read, list and remove below `folder`."""
    if folder is None:
        return
    mark = f"tigerjax-doctor-{socket.gethostname()}-{os.getpid()}"
    try:
        place = paths.of(folder) / mark
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(mark.encode())
        read, listed = place.read_bytes() == mark.encode(), mark in paths.names(place.parent)
        place.unlink()
    except TigerjaxError as error:
        yield Finding("bucket", str(folder), str(error))
        return
    except Exception as error:
        yield Finding("bucket", str(folder), str(paths.trouble(error) or f"{type(error).__name__}: {error}"))
        return
    trouble = None if read and listed else "what was written is not read back; see its permissions"
    yield Finding("bucket", f"{folder}: written, read, listed, removed", trouble)
