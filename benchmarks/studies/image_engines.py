"""Two programs that build an image and run it: Docker where its daemon answers, else buildah in a chroot.

Both have the same methods: `build` runs the steps of a Dockerfile, `command` is what runs words in the image that was
built, `terminate` sends SIGTERM to the first process of such a command, `size` is in bytes, `end` removes everything.
"""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

IMAGE = "tigerjax-drill"
BASE = "tigerjax-drill-base"
RELEASE = "bookworm"
"""Debian's, as in the name of the Dockerfile's base."""
PACKAGES = (
    "ca-certificates", "netbase", "tzdata", "libssl3", "libsqlite3-0", "libffi8", "zlib1g", "libbz2-1.0", "liblzma5",
    "libreadline8", "libncursesw6", "libuuid1", "libexpat1", "libgdbm6",
)  # fmt: skip
"""What the base has beside Debian's least: the libraries of Python's own modules."""
MODULES = "ssl, sqlite3, ctypes, zlib, bz2, lzma, readline, curses, uuid"
REACH = ("index-url", "extra-index-url", "find-links", "cert", "client-cert", "proxy", "trusted-host", "timeout",
         "default-timeout")  # fmt: skip
"""The settings with which pip reaches a registry. Others, such as constraints, would change what is installed."""
STEP = re.compile(r"^(?:STEP |Step |#\d+ \[\s*)(\d+)/\d+(?: ?: |\] )(.*)")
"""The line with which buildah, Docker, or Docker with BuildKit (--progress=plain) begins a step."""
SHOWN = 3000
"""So many characters of the end of an output are shown when it fails."""


class Step(NamedTuple):
    """An instruction of the Dockerfile and how long it took."""

    instruction: str
    seconds: float


def timed(lines: Iterable[tuple[float, str]]) -> Iterator[Step]:
    """The steps of a build, from the lines of its output and the times in seconds at which they came.

    A step ends where the next one begins, the last one with the last line.
    """
    began, instruction, at = 0.0, None, 0.0
    for at, line in lines:
        if found := STEP.match(line):
            if instruction is not None:
                yield Step(instruction, round(at - began, 1))
            began, instruction = at, found[2].strip()
    if instruction is not None:
        yield Step(instruction, round(at - began, 1))


def done(words: Iterable[Any], **options: Any) -> str:
    """The output of a command; RuntimeError with the end of what it said when it fails."""
    words = [str(word) for word in words]
    ran = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(words[:4])} … ended with {ran.returncode}: …{ran.stdout[-SHOWN:]}")
    return ran.stdout


def built(words: Iterable[Any]) -> list[Step]:
    """Runs a build and shows each step when it begins."""
    said: list[tuple[float, str]] = []
    words = [str(word) for word in words]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as build:
        assert build.stdout is not None
        for line in build.stdout:
            said.append((time.monotonic(), line.rstrip("\n")))
            if found := STEP.match(line):
                print(f"step {found[1]}: {found[2].strip()[:100]}", flush=True)
    said.append((time.monotonic(), ""))
    if build.returncode:
        raise RuntimeError(f"the build ended with {build.returncode}: …" + "\n".join(line for _, line in said)[-SHOWN:])
    return list(timed(said))


class Docker:
    """`digest` is that of the Dockerfile's base."""

    name = "docker"

    def __init__(self, digest: str):
        self._base = f"BASE_DIGEST={digest}"

    def build(self, context: Path, dockerfile: Path, extra: str) -> list[Step]:
        given = ["--build-arg", self._base, "--build-arg", f"EXTRA={extra}", "--progress", "plain", "--no-cache"]
        return built(["docker", "build", *given, "-f", dockerfile, "-t", IMAGE, context])

    def command(self, words: list[str], env: dict[str, str], *, entry: bool = True) -> list[str]:
        """`words` go to the image's entry point, or are a program of their own (`entry=False`)."""
        first = [] if entry else ["--entrypoint", words[0]]
        variables = [f"--env={name}={value}" for name, value in env.items()]
        return ["docker", "run", "--rm", f"--name={IMAGE}", *variables, *first, IMAGE, *words[0 if entry else 1 :]]

    def terminate(self, process: subprocess.Popen) -> None:
        done(["docker", "kill", "--signal", "TERM", IMAGE])

    def size(self) -> int:
        return int(done(["docker", "image", "inspect", "--format", "{{.Size}}", IMAGE]))

    def end(self) -> None:
        subprocess.run(["docker", "rm", "--force", IMAGE], capture_output=True)
        subprocess.run(["docker", "image", "rm", "--force", IMAGE], capture_output=True)


class Buildah:
    """Everything is below the folder `work`. The base is a Debian of its own with the Python of the folder `python`."""

    name = "buildah"

    def __init__(self, work: Path, python: Path, mirror: str, *, pip: bool):
        self._work, self._python, self._mirror, self._pip = work, python, mirror, pip
        storage = ["--root", work / "storage", "--runroot", work / "run", "--storage-driver", "overlay"]
        self._buildah = ["buildah", *map(str, storage)]

    def build(self, context: Path, dockerfile: Path, extra: str) -> list[Step]:
        began = time.monotonic()
        print(f"base: Debian {RELEASE} with {self._python}", flush=True)
        self._base()
        steps = [Step("base", round(time.monotonic() - began, 1))]
        given = ["--from", f"localhost/{BASE}", "--build-arg", f"EXTRA={extra}", *(self._reach() if self._pip else [])]
        steps += built([*self._buildah, "bud", "--isolation", "chroot", *given, "-f", dockerfile, "-t", IMAGE, context])
        self._container = done([*self._buildah, "from", f"localhost/{IMAGE}"]).split()[-1]
        return steps

    def command(self, words: list[str], env: dict[str, str], *, entry: bool = True) -> list[str]:
        """`words` go to the image's entry point, or are a program of their own (`entry=False`)."""
        if entry:
            about = json.loads(done([*self._buildah, "inspect", "--type", "image", f"localhost/{IMAGE}"]))
            words = [*about["OCIv1"]["config"]["Entrypoint"], *words]
        variables = [f"--env={name}={value}" for name, value in env.items()]
        return [*self._buildah, "run", "--isolation", "chroot", *variables, self._container, "--", *words]

    def terminate(self, process: subprocess.Popen) -> None:
        """The first process that is not buildah's own is the one which a container would have as its first."""
        at = process.pid
        while "buildah" in Path(f"/proc/{at}/cmdline").read_text().split("\0")[0]:
            # Of every thread: buildah is a program in Go, which starts processes from any of them.
            children = " ".join(path.read_text() for path in Path(f"/proc/{at}/task").glob("*/children"))
            at = int(children.split()[0])
        os.kill(at, signal.SIGTERM)

    def size(self) -> int:
        (image,) = json.loads(done([*self._buildah, "images", "--json", f"localhost/{IMAGE}"]))
        shown = re.fullmatch(r"([\d.]+) ([KMG]?)B", image["size"])
        if shown is None:
            raise RuntimeError(f"buildah says that the image has the size {image['size']!r}")
        return round(float(shown[1]) * {"": 1, "K": 1e3, "M": 1e6, "G": 1e9}[shown[2]])

    def end(self) -> None:
        """Mounts that are left go first: to remove a mounted folder would remove what is mounted there."""
        subprocess.run([*self._buildah, "rm", "--all"], capture_output=True)
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for place in reversed([place for place in mounted if place.startswith(f"{self._work}/")]):
            subprocess.run(["umount", "-l", place], check=True)
        shutil.rmtree(self._work)

    def _base(self) -> None:
        root = self._work / "base"
        done(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", RELEASE, root, self._mirror])
        copied(self._python, root / "usr" / "local")
        done(["chroot", root, "ldconfig"])
        done(["chroot", root, "/usr/local/bin/python3", "-c", f"import {MODULES}"])
        container = done([*self._buildah, "from", "scratch"]).split()[-1]
        done([*self._buildah, "add", container, root, "/"])
        path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        done([*self._buildah, "config", "--env", f"PATH={path}", "--env", "LANG=C.UTF-8", container])
        done([*self._buildah, "commit", "--rm", container, BASE])
        done(["umount", "-l", root / "proc"]) if (root / "proc").is_mount() else None
        shutil.rmtree(root)

    def _reach(self) -> list[str]:
        """The mounts that bring the settings of pip into the steps. Their places are in the image, and empty."""
        text, folders = reach(done([sys.executable, "-m", "pip", "config", "list"]).splitlines())
        made = self._work / "pip.conf"
        made.write_text(text)
        mounts = {str(made): "/etc/pip.conf"} | folders
        return [word for here, there in mounts.items() for word in ("--volume", f"{here}:{there}:ro")]


def reach(settings: Iterable[str]) -> tuple[str, dict[str, str]]:
    """(A pip.conf, {path here: where it is mounted}) of the lines of `pip config list`.

        :env:.cert='/etc/certs.pem'         [global]
        global.constraint='/etc/c.txt'      cert = /mnt/pip0

    Only settings in REACH are taken, and the environment is above the files. Files and folders that they name are
    mounted below /mnt; those that are not there are left out.
    """
    values: dict[str, str] = {}
    for line in sorted(settings, key=lambda line: line.startswith(":env:")):  # stable, so the environment comes last
        name, _, value = line.partition("=")
        if (key := name.rpartition(".")[2]) in REACH:
            values["timeout" if key == "default-timeout" else key] = ast.literal_eval(value)
    mounts: dict[str, str] = {}

    def inside(word: str) -> str | None:
        path = word.removeprefix("file://")
        if not path.startswith("/"):
            return word
        if not Path(path).exists():
            return None
        # The pages of an index on disk, in its folder `simple`, lead to files beside that folder.
        outer = path.rstrip("/").removesuffix("/simple")
        return word.replace(outer, mounts.setdefault(outer, f"/mnt/pip{len(mounts)}"))

    lines = ["[global]"]
    for key, value in values.items():
        if kept := [word for word in map(inside, value.split()) if word is not None]:
            lines.append(f"{key} = {' '.join(kept)}")
    return "\n".join(lines) + "\n", mounts


def copied(python: Path, target: Path) -> None:
    """Copies a Python as `make install` wrote it; its scripts then name the Python of /usr/local.

    Of what was installed with it pip alone comes, as in the image that the Dockerfile names.
    """

    def left_out(folder: str, names: list[str]) -> set[str]:
        if Path(folder).name == "site-packages":
            return {name for name in names if not name.startswith("pip")}
        return {name for name in names if name in ("__pycache__", "test")}

    shutil.copytree(python, target, symlinks=True, dirs_exist_ok=True, ignore=left_out)
    for script in (target / "bin").iterdir():
        with contextlib.suppress(UnicodeDecodeError):
            if script.is_symlink() or not (text := script.read_bytes().decode()).startswith(f"#!{python}/"):
                continue
            script.write_text(f"#!/usr/local/{text.removeprefix(f'#!{python}/')}")
