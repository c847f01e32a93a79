"""The image of launch/Dockerfile. There is no Docker where the tests run: its lines are read, not built."""

import re
import subprocess
from pathlib import Path

import yaml
from test_targets import CONFIG, ROOT, SETTINGS, launch

LINES = (ROOT / "launch" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
STEPS = [line.split(maxsplit=1) for line in LINES if line and not line.startswith(("#", " "))]


def test_the_base_is_named_by_a_digest_without_which_nothing_is_built():
    (base,) = [words for step, words in STEPS if step == "FROM"]
    assert base.endswith("@${BASE_DIGEST}") and ["ARG", "BASE_DIGEST"] in STEPS


def test_every_package_has_the_hash_of_the_lock():
    installs = [words for step, words in STEPS if step == "RUN" and "pip install" in words]
    locked, own = installs
    assert "--require-hashes" in locked and "-r requirements-py312.lock" in locked
    assert "--no-deps" in own and own.split("&&")[0].rstrip().endswith("-e .")


def test_an_extra_that_is_none_stops_the_build(tmp_path):
    (script,) = [words for step, words in STEPS if step == "RUN" and "--require-hashes" in words]
    for program in ("apt-get", "pip", "rm"):  # the path has these alone: nothing of this machine is touched
        (tmp_path / program).write_text(f'#!/bin/sh\necho {program} "$@"\n')
        (tmp_path / program).chmod(0o755)
    for extra, code, asked in (("tpu", 0, "py312.lock"), ("gpu", 0, "gpu.lock"), ("tpx", 2, "neither tpu nor gpu")):
        done = subprocess.run(
            ["/bin/sh", "-c", script], env={"EXTRA": extra, "PATH": str(tmp_path)}, capture_output=True, text=True
        )
        said = done.stdout.splitlines() + done.stderr.splitlines()
        asked_of = [line for line in said if line.startswith("pip") or code]
        assert done.returncode == code and len(asked_of) == 1 and asked_of[0].endswith(asked), done
        assert code or said[-2] == "apt-get purge -y --auto-remove g++"


def test_the_run_is_not_root_and_owns_what_it_writes_to():
    users = [words for step, words in STEPS if step == "USER"]
    assert users == ["1000:1000"] and [step for step, _ in STEPS].index("USER") < len(STEPS) - 1
    made = " ".join(words for step, words in STEPS if step == "RUN")
    assert "useradd --create-home --uid 1000" in made and "install -d -o 1000 -g 1000 /gcs /tigerjax" in made
    assert "mkdir" not in Path(ROOT / "launch" / "entrypoint.sh").read_text()


def test_the_mounts_of_the_targets_belong_to_the_image_s_user():
    done = launch("gke", CONFIG, "--dry-run", **SETTINGS)
    (job,) = yaml.safe_load(done.stdout)["spec"]["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    user = {"runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000}
    assert pod["securityContext"] == user
    (volume,) = pod["volumes"]
    assert volume["csi"]["volumeAttributes"]["mountOptions"] == "implicit-dirs,uid=1000,gid=1000"
    done = launch("tpu-vm", CONFIG, "--dry-run", **SETTINGS)
    (command,) = [line for line in done.stdout.splitlines() if "--command=" in line]
    assert re.search(r"chmod.*a\+rw.*docker.*run", command)
