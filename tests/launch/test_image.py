"""The image of launch/Dockerfile. There is no Docker where the tests run: its lines are read, not built."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from test_targets import CONFIG, ROOT, SETTINGS, launch

LINES = (ROOT / "launch" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
STEPS = [line.split(maxsplit=1) for line in LINES if line and not line.startswith(("#", " "))]


@pytest.fixture
def studies(monkeypatch):
    """The folder of the command that builds the image; its parts that only read and write text are tried here."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks" / "studies"))


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


def test_the_step_of_gcsfuse_is_left_out_alone(studies):
    from image import without_gcsfuse

    text = (ROOT / "launch" / "Dockerfile").read_text()
    left = without_gcsfuse(text)
    made = [line.split(maxsplit=1) for line in left.replace("\\\n", " ").splitlines() if line and line[0] not in "# "]
    assert (
        made == [step for step in STEPS if "packages.cloud.google.com" not in step[1]] and len(made) == len(STEPS) - 1
    )
    with pytest.raises(ValueError, match=r"0 steps RUN fetch from packages.*change without_gcsfuse"):
        without_gcsfuse(left)
    with pytest.raises(ValueError, match="2 steps RUN fetch"):
        without_gcsfuse(text + text)


def test_the_steps_of_a_build_and_their_seconds_are_read_from_its_output(studies):
    from image_engines import timed

    for first, second in (
        ("STEP 1/2: FROM base", "STEP 2/2: RUN make"),
        ("Step 1/2 : FROM base", "Step 2/2 : RUN make"),
        ("#5 [1/2] FROM base", "#6 [2/2] RUN make"),
    ):
        said = [(1.0, "begins"), (2.0, first), (3.5, "made"), (4.0, second), (7.0, "STEP by step"), (9.25, "")]
        assert list(timed(said)) == [("FROM base", 2.0), ("RUN make", 5.2)]
    assert list(timed([(1.0, "nothing")])) == []


def test_pip_inside_gets_what_reaches_a_registry_and_nothing_else(studies, tmp_path):
    from image_engines import reach

    for name in ("certs.pem", "other.pem", "wheels"):
        (tmp_path / name).write_text("")
    (tmp_path / "index" / "simple").mkdir(parents=True)
    text, mounts = reach(
        [
            f":env:.cert='{tmp_path}/certs.pem'",
            f"global.cert='{tmp_path}/other.pem'",
            "global.constraint='/etc/constraints.txt'",
            f"global.find-links='{tmp_path}/wheels https://host/wheels {tmp_path}/none'",
            f"global.extra-index-url='file://{tmp_path}/none/simple file://{tmp_path}/index/simple'",
            ":env:.default-timeout='180'",
            "install.user='true'",
        ]
    )
    wheels, index, cert = (mounts.pop(f"{tmp_path}/{name}") for name in ("wheels", "index", "certs.pem"))
    assert not mounts and len({wheels, index, cert}) == 3
    assert text.splitlines() == [
        "[global]",
        f"cert = {cert}",
        f"find-links = {wheels} https://host/wheels",
        f"extra-index-url = file://{index}/simple",
        "timeout = 180",
    ]


def test_the_scripts_of_a_copied_python_name_the_copy(studies, tmp_path):
    from image_engines import copied

    here, there = tmp_path / "here", tmp_path / "there"
    packages = here / "lib" / "python3.13" / "site-packages"
    for folder in (here / "bin", packages / "pip", packages / "other", here / "lib" / "python3.13" / "test"):
        folder.mkdir(parents=True)
    (here / "bin" / "python3.13").write_bytes(b"\x7fELF\xff")
    (here / "bin" / "pip").write_text(f"#!{here}/bin/python3.13\nimport re\n")
    (here / "bin" / "mine").write_text(f"#!/bin/sh\necho {here}\n")
    (here / "bin" / "python").symlink_to("python3.13")
    copied(here, there)
    assert (there / "bin" / "pip").read_text() == "#!/usr/local/bin/python3.13\nimport re\n"
    assert (there / "bin" / "mine").read_text() == f"#!/bin/sh\necho {here}\n"
    assert (there / "bin" / "python").is_symlink() and (there / "bin" / "python3.13").read_bytes() == b"\x7fELF\xff"
    assert [path.name for path in (there / "lib" / "python3.13").rglob("*")] == ["site-packages", "pip"]
