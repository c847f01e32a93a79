"""The libtpu flags of a TPU generation, read from libtpu_flags/: lines `--name=value`; `#` begins a comment."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from tigerjax.errors import ConfigError
from tigerjax.plan.topology import Topology

FOLDER = Path(__file__).with_name("libtpu_flags")
"""The scripts of launch/ give the same files to the runs that they start."""
SEVERAL_SLICES = "several_slices.txt"
"""Of FOLDER: what runs over several slices get beside the flags of their generation."""
REFUSED = "libtpu refuses a flag"
"""How the message begins when the compiler does not know a flag, or not its value."""
LINE = re.compile(r"--([a-z0-9_]+)=(\S+)")


def read(path: str | Path) -> dict[str, str]:
    """The flags of a file: name without dashes -> value, as `compiler_options` takes them. ConfigError names a line
    that is no flag."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"libtpu flags {path} do not exist; give a file such as {FOLDER}/v5p.txt")
    options: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        if (match := LINE.fullmatch(text)) is None:
            raise ConfigError(f"{path}:{number}: {text!r} must be --name=value")
        options[match[1]] = match[2]
    return options


def given(words: Iterable[str]) -> dict[str, str]:
    """The flags that `name=value` words give. ConfigError names a word that is none."""
    options: dict[str, str] = {}
    for word in words:
        if (match := LINE.fullmatch(f"--{word}")) is None:
            raise ConfigError(f"--libtpu-flags {word!r} must be name=value, as xla_tpu_scoped_vmem_limit_kib=32768")
        options[match[1]] = match[2]
    return options


def line(options: dict[str, str]) -> str:
    """The flags as a run takes them, and the scripts of launch/ in place of the file's: a word of a shell."""
    return "LIBTPU_INIT_ARGS=" + shlex.quote(" ".join(f"--{name}={value}" for name, value in options.items()))


def of(topology: Topology) -> dict[str, str]:
    """The flags that launch/ gives so many slices of this generation."""
    more = read(FOLDER / SEVERAL_SLICES) if topology.slices > 1 else {}
    return read(FOLDER / f"{topology.chip.name}.txt") | more
