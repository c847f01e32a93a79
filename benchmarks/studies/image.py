"""Builds the image of launch/Dockerfile, runs it, and says what it was: the seconds of each step, its size, the checks.

    python benchmarks/studies/image.py --base-digest sha256:…                                   with a Docker daemon
    python benchmarks/studies/image.py --python DIR [--pip-settings] [--without-gcsfuse]        elsewhere

Where no daemon answers the image is built with buildah, as root, after `apt-get install buildah debootstrap`. It needs
no Docker Hub: the base is a Debian made by debootstrap, with the Python 3.13 of the folder DIR (what `make install`, or
pyenv, wrote) under /usr/local. --pip-settings lets pip inside reach a registry as pip reaches it here: the settings and
the files that they name are mounted during the build. --without-gcsfuse leaves out the one step that needs
packages.cloud.google.com, and says so; such an image cannot mount a bucket.

In the image it then runs, as the image's user and on CPU: `--help` through the entry point, a look at users and files,
a tokenizer and some steps of configs/llama2_tiny.py, and the same run again, which gets SIGTERM. It exits with 5 when a
check fails. The last step includes the writing of the image. What was made is removed: the image, too, and the folder
below --work, which needs FREE_GB.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from image_engines import Buildah, Docker

ROOT = Path(__file__).resolve().parents[2]
HOST = "packages.cloud.google.com"
FREE_GB = 20
RUN_S = 900.0
"""A command in the image that takes longer failed."""
STEPS, MANY = 4, 100_000
USER = 1000
LOOK = """
import json, os, shutil, sysconfig
packages = sysconfig.get_path("purelib")
files = [os.path.join(at, name) for at, folders, names in os.walk(packages) for name in folders + names]
os.makedirs("/tigerjax/runs/probe", exist_ok=True)
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "folder": os.getcwd(),
    "folder_writable": os.access("/tigerjax", os.W_OK) and os.access("/gcs", os.W_OK),
    "package_files": len(files),
    "packages_not_of_root": [path for path in files if os.lstat(path).st_uid or os.access(path, os.W_OK)][:5],
    "compilers": [name for name in ("g++", "gcc", "cc", "c++") if shutil.which(name)],
}))
"""
MIXTURE = """
from tigerjax.data.mixture import Source, pretraining
pretraining("probe", tokenizer="runs/tok", sources={"en": Source("data_mixtures/embedded/corpus_en.jsonl")})
"""
TRAINING = f"""
set -e
mkdir -p runs/code && cat > runs/code/probe_mixture.py <<'MIXTURE'
{MIXTURE}
MIXTURE
launch/entrypoint.sh tokenizer train --vocab-size 900 --out runs/tok --input data_mixtures/embedded/corpus_en.jsonl
PYTHONPATH=runs/code exec launch/entrypoint.sh train configs/llama2_tiny.py --model.vocab-size 900 \\
    --model.padded-vocab-size 1024 --optim.warmup-steps 1 --data.mixture probe --data.modules probe_mixture \\
    --data.tokenizer runs/tok --data.cache-dir runs/rows --log-every-steps 1 \\
"""


def without_gcsfuse(dockerfile: str) -> str:
    """The Dockerfile without its step that fetches from packages.cloud.google.com.

    ValueError unless one RUN alone names that host.
    """
    steps: list[list[str]] = [[]]
    for line in dockerfile.splitlines(keepends=True):
        steps[-1].append(line)
        if line.startswith("#") or not line.rstrip().endswith("\\"):
            steps.append([])
    found = [step for step in steps if step and step[0].startswith("RUN ") and HOST in "".join(step)]
    if len(found) != 1:
        raise ValueError(
            f"launch/Dockerfile: {len(found)} steps RUN fetch from {HOST}, and --without-gcsfuse leaves out one; "
            "change without_gcsfuse in benchmarks/studies/image.py to what the Dockerfile does now"
        )
    return "".join(line for step in steps if step is not found[0] for line in step)


def train_to(out: str, steps: int) -> list[str]:
    """The words of a shell that trains a tokenizer and then becomes the run, so that signals reach Python."""
    return ["sh", "-c", f"{TRAINING}    --out runs/{out} --optim.total-steps {steps}"]


def ran(command: list[str]) -> tuple[int, str]:
    """(Exit code, all output) of a command in the image."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_S
    )
    return done.returncode, done.stdout


def stopped(engine: Docker | Buildah, command: list[str]) -> tuple[int, str]:
    """(Exit code, all output) of a run that gets SIGTERM after its second step."""
    said: list[str] = []
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if line.startswith("step 2/"):
                engine.terminate(process)
        return process.wait(timeout=RUN_S), "".join(said)
    finally:
        process.kill()


def checked(engine: Docker | Buildah) -> dict[str, dict[str, Any]]:
    """What was tried in the image, each with `fine` and what was seen."""
    cpu = {"JAX_PLATFORMS": "cpu"}
    found: dict[str, dict[str, Any]] = {}
    began = time.monotonic()
    code, said = ran(engine.command(["--help"], {}))
    found["help"] = {
        "fine": code == 0 and "tokenizer" in said,
        "code": code,
        "seconds": round(time.monotonic() - began, 1),
    }
    code, said = ran(engine.command(["python", "-c", LOOK], {}, entry=False))
    seen: dict[str, Any] = json.loads(said.splitlines()[-1]) if code == 0 else {"said": said[-500:]}
    found["user"] = {"fine": seen.get("user") == [USER, USER], "user": seen.get("user")}
    found["folder"] = {"fine": bool(seen.get("folder_writable")) and seen["folder"] == "/tigerjax"}
    files, foreign = seen.get("package_files", 0), seen.get("packages_not_of_root")
    found["packages"] = {"fine": foreign == [] and files > 1000, "files": files, "not_of_root": foreign}
    found["compilers"] = {"fine": "g++" not in seen.get("compilers", ["g++"]), "left": seen.get("compilers")}
    began = time.monotonic()
    code, said = ran(engine.command(train_to("probe", STEPS), cpu, entry=False))
    last = [line for line in said.splitlines() if line.startswith(f"step {STEPS}/{STEPS} ")]
    found["training"] = {"fine": code == 0 and bool(last), "code": code, "last": last or said[-500:]}
    found["training"]["seconds"] = round(time.monotonic() - began, 1)
    code, said = stopped(engine, engine.command(train_to("stopped", MANY), cpu, entry=False))
    ended = [line for line in said.splitlines() if line.startswith("SIGTERM: ")]
    fine = code == 128 + 15 and "checkpoint saved" in "".join(ended[-1:])
    found["sigterm"] = {"fine": fine, "code": code, "said": ended or said[-500:]}
    return found


def answers() -> bool:
    """Whether a Docker daemon answers."""
    return shutil.which("docker") is not None and not subprocess.run(["docker", "info"], capture_output=True).returncode


def chosen(given: argparse.Namespace, work: Path) -> Docker | Buildah | str:
    """The engine, or what is missing for it."""
    if answers():
        if given.base_digest is None or given.pip_settings:
            return "a Docker daemon answers: give --base-digest (see launch/Dockerfile), and no --pip-settings"
        return Docker(given.base_digest)
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing or os.getuid():
        needed = f"no Docker daemon answers, and {' and '.join(missing) or 'root'} is missing"
        return f"{needed}: be root, and apt-get install buildah debootstrap"
    if given.python is None or not (given.python / "bin" / "python3.13").exists():
        return "no Docker daemon answers: give --python DIR, a folder with bin/python3.13, such as one of pyenv"
    free = shutil.disk_usage(work).free / 1e9
    if free < FREE_GB:
        return f"{work} has {free:.1f} GB free, and the build needs {FREE_GB}; give another folder as --work"
    return Buildah(work, given.python, given.mirror, pip=given.pip_settings)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extra", default="tpu", help="EXTRA of the Dockerfile: tpu or gpu")
    parser.add_argument("--base-digest", help="with Docker: BASE_DIGEST of the Dockerfile")
    parser.add_argument(
        "--python", type=lambda word: Path(word).resolve(), help="with buildah: a folder of Python 3.13"
    )
    parser.add_argument(
        "--mirror", default="http://deb.debian.org/debian", help="with buildah: where Debian is fetched"
    )
    parser.add_argument("--pip-settings", action="store_true", help="with buildah: this machine's settings of pip")
    parser.add_argument("--without-gcsfuse", action="store_true", help=f"leave out the step that needs {HOST}")
    parser.add_argument("--work", type=Path, help="the folder in which the work is done, in place of $TMPDIR")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="image-", dir=given.work))
    engine = chosen(given, work)
    if isinstance(engine, str):
        work.rmdir()
        print(engine)
        return 2
    with contextlib.ExitStack() as ending:
        ending.callback(lambda: shutil.rmtree(work, ignore_errors=True))
        ending.callback(engine.end)
        dockerfile, left_out = ROOT / "launch" / "Dockerfile", []
        if given.without_gcsfuse:
            print(f"left out: the step of gcsfuse, which needs {HOST}; this image cannot mount a bucket", flush=True)
            text, left_out = without_gcsfuse(dockerfile.read_text()), ["gcsfuse"]
            dockerfile = work / "Dockerfile"
            dockerfile.write_text(text)
        steps = engine.build(ROOT, dockerfile, given.extra)
        size = engine.size()
        checks = checked(engine)
        figures = {"engine": engine.name, "extra": given.extra, "left_out": left_out, "size_gb": round(size / 1e9, 2),
                   "steps": [step._asdict() for step in steps], "checks": checks}  # fmt: skip
        shown(figures)
        if given.json is not None:
            given.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0 if all(check["fine"] for check in checks.values()) else 5


def shown(figures: dict[str, Any]) -> None:
    print(f"{figures['engine']}, EXTRA={figures['extra']}, {figures['size_gb']} GB")
    for step in figures["steps"]:
        print(f"{step['seconds']:8.1f} s  {step['instruction'][:90]}")
    for name, check in figures["checks"].items():
        print(f"{name:12} {'fine' if check['fine'] else 'FAILED'}  {check if not check['fine'] else ''}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
