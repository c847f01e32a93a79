"""Configs that a search compiles, each in a process of its own, and the files that keep what came of them.

A process gives its memory back when it ends. Figures are kept as JSON files, named by all that they depend on, so that
a search that was stopped goes on.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import tigerjax
from tigerjax import config as config_lib
from tigerjax.config import RunConfig
from tigerjax.files import manifest
from tigerjax.mesh import AXES
from tigerjax.plan import flags
from tigerjax.plan.topology import Topology

GIVEN_UP_AFTER_S = "given_up_after_s"
"""The key of a stored result that was not compiled in so many seconds."""
SOURCES = ("config", "mesh.py", "model", "train", "plan")
"""The part of tigerjax/ that a result depends on."""


class Trial(NamedTuple):
    """One config to compile."""

    config: RunConfig
    rows: int
    """Rows of a micro-batch on each device that holds different ones (data x stage x fsdp)."""
    memory: float
    """The least bytes that it needs: state and saved activations."""
    seconds: float
    """A rough time of a step, which only the order uses."""
    flags: tuple[tuple[str, str], ...] = ()
    """libtpu flags, by name and value, that differ from those of the search."""

    @property
    def mesh(self) -> tuple[int, ...]:
        m = self.config.mesh
        return tuple(getattr(m, axis) for axis in AXES)

    def overrides(self, base: RunConfig) -> list[str]:
        """The options that turn `base` into this config on the command line."""
        had, want = (dict(line.split(" = ", 1) for line in config_lib.dump(c)) for c in (base, self.config))
        changed = sorted(k for k in want if want[k] != had[k])
        return [word for k in changed for word in _option(k.replace("_", "-"), want[k])]


class Result(NamedTuple):
    candidate: Trial
    figures: dict[str, Any]

    @property
    def rate(self) -> float:
        """At most so many tokens per second and chip; 0 when the program does not fit or was refused."""
        return self.figures.get("tokens_per_s_per_chip", 0.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trials:
    """How a search compiles, and where it keeps the results."""

    base: RunConfig
    topology: Topology
    command: list[str]
    """The command line `tigerjax plan CONFIG` with its topology, which makes `base`. A trial adds its options."""
    work: Path
    """The folder of results. Those of an earlier search are read, and only those that it had no time to compile are
    compiled again, where this one has more."""
    limit_s: float
    """What takes longer to compile is given up."""
    flags: dict[str, str] = dataclasses.field(default_factory=dict)
    """The libtpu flags of every trial that differ from those of libtpu_flags/."""

    def given(self, trial: Trial) -> dict[str, str]:
        """The libtpu flags of a trial that differ from those of libtpu_flags/."""
        return self.flags | dict(trial.flags)

    def options(self, trial: Trial) -> dict[str, str]:
        """All libtpu flags of a trial."""
        return flags.of(self.topology) | self.given(trial)

    def figures(self, trial: Trial, until: float) -> dict[str, Any] | None:
        """The figures of a whole step, as `kept`; {fits: None, error} when it is refused."""
        given = self.given(trial)
        words = [*self.command, *trial.overrides(self.base)]
        if given:
            words += ["--libtpu-flags", *(f"{name}={value}" for name, value in given.items())]
        return self.kept(key(trial.config, self.topology, given), until, lambda: _compile(words, self.limit_s))

    def kept(self, name: str, until: float, make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
        """The figures in the file `name`, which `make` makes where it is not there. None where they would have to be
        made and it is later than `until`, by time.monotonic()."""
        path = self.work / f"{name}.json"
        figures = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        if figures is None or figures.get(GIVEN_UP_AFTER_S, self.limit_s) < self.limit_s:
            if time.monotonic() > until:
                return None
            figures = make()
            manifest.write_json(path, figures)
        return figures


def _option(name: str, value: str) -> tuple[str, ...]:
    """The words that give a field its value; a switch takes none."""
    if value in ("True", "False"):
        stem, dot, last = name.rpartition(".")
        return (f"--{name}" if value == "True" else f"--{stem}{dot}no-{last}",)
    return f"--{name}", value.strip("'")


def key(config: RunConfig, topology: Topology, given: dict[str, str] | None = None) -> str:
    """The name of a result's file: a hash of the config without its name, the slice and the libtpu flags, of which
    `given` differ from those of libtpu_flags/; and of the versions and sources."""
    parts = [line for line in config_lib.dump(config) if not line.startswith("name = ")]
    options = flags.of(topology) | (given or {})
    return digest([*parts, topology.name, str(topology.slices), str(sorted(options.items()))])


def digest(parts: Iterable[str]) -> str:
    """A hash of the parts, the versions and the sources."""
    root = Path(tigerjax.__file__).parent
    parts = [*parts, *(f"{n} {importlib.metadata.version(n)}" for n in ("jax", "jaxlib", "libtpu", "flax", "optax"))]
    for source in SOURCES:
        path = root / source
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            parts.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _compile(command: list[str], timeout_s: float) -> dict[str, Any]:
    """The figures of a candidate; {fits: None, error} when the command refuses it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "figures.json"
        try:
            run = subprocess.run([*command, "--json", str(path)], capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return {"fits": None, "error": f"not compiled within {timeout_s:.0f} s", GIVEN_UP_AFTER_S: timeout_s}
        if run.returncode == 0 and path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    messages = [text for text in run.stderr.strip().splitlines() if text.strip()]
    return {"fits": None, "error": messages[-1] if messages else f"exit code {run.returncode}"}
