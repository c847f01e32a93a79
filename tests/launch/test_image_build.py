"""The image of launch/Dockerfile, built without Docker: TIGERJAX_ROOT_FOLDER=FOLDER, a Debian 12 with Python 3.13.

It takes buildah, root, 20 GB and a quarter of an hour. FOLDER stands for the base, which lies on Docker Hub:

    apt-get install buildah debootstrap && debootstrap --variant=minbase bookworm FOLDER
    # then Python 3.13 with pip below FOLDER/usr/local, and what it needs: chroot FOLDER apt-get install libssl3 ...

The step of gcsfuse is left out where packages.cloud.google.com is out of reach. TIGERJAX_BUILD_OPTIONS holds more words
for `buildah build`, such as `--volume` for a pip.conf.
"""

import os
import shlex
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from test_targets import ROOT

FOLDER = os.environ.get("TIGERJAX_ROOT_FOLDER", "")
REASON = "needs buildah, root and a Debian: apt-get install buildah; TIGERJAX_ROOT_FOLDER=FOLDER"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not (FOLDER and shutil.which("buildah")), reason=REASON)
def test_the_image_is_built_and_its_user_runs_the_program(tmp_path, request):
    request.addfinalizer(lambda: shutil.rmtree(tmp_path))

    def buildah(*words: str) -> str:
        store = ["--root", str(tmp_path / "images"), "--runroot", str(tmp_path / "run"), "--storage-driver", "vfs"]
        done = subprocess.run(["buildah", *store, *words], capture_output=True, text=True)
        assert done.returncode == 0, f"buildah {words[0]}: {(done.stdout + done.stderr)[-3000:]}"
        return done.stdout

    tree = tmp_path / "tree"
    subprocess.run(["git", "clone", "--quiet", ROOT, tree], check=True)
    steps = (ROOT / "launch" / "Dockerfile").read_text()
    lines = steps.replace("python:3.13-slim-bookworm@${BASE_DIGEST}", "localhost/base").split("\n\n")
    try:
        socket.create_connection(("packages.cloud.google.com", 443), timeout=5).close()
    except OSError:
        lines = [part for part in lines if "packages.cloud.google.com" not in part]
    (tmp_path / "Dockerfile").write_text("\n\n".join(lines))
    base = buildah("from", "scratch").strip()
    buildah("copy", "--quiet", base, FOLDER, "/")
    buildah("commit", "--quiet", "--rm", base, "localhost/base")
    options = ["--isolation", "chroot", "--network", "host", *shlex.split(os.environ.get("TIGERJAX_BUILD_OPTIONS", ""))]
    arguments = ["--build-arg", "EXTRA=tpu", "--build-arg", "BASE_DIGEST="]
    buildah("bud", *options, *arguments, "-f", str(tmp_path / "Dockerfile"), "-t", "tigerjax", str(tree))
    made = buildah("from", "tigerjax").strip()
    script = "id -u; touch /tigerjax/written; command -v g++ || launch/entrypoint.sh --help"
    said = buildah("run", "--isolation", "chroot", made, "--", "sh", "-c", script)
    assert said.startswith("1000\n") and "/g++" not in said and "tigerjax train" in said
    assert (Path(buildah("mount", made).strip()) / "tigerjax" / "written").stat().st_uid == 1000
