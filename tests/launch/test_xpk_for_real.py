"""What the real `xpk` makes of the command that launch/run.sh gives it, in its own dry run: TIGERJAX_XPK=PROGRAM."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from test_targets import CONFIG, SETTINGS, launch

PROGRAM = os.environ.get("TIGERJAX_XPK", "")


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which(PROGRAM), reason="needs xpk 1.16: pip install xpk; TIGERJAX_XPK=PROGRAM")
def test_xpk_renders_the_workload_with_our_command_and_exit_codes(tmp_path):
    done = launch("xpk", CONFIG, "--dry-run", "--seed", "3", SLICES="2", MESH="128", **SETTINGS)
    manifest = tmp_path / "manifest.yaml"
    words = [PROGRAM, *shlex.split(done.stdout)[1:], "--dry-run", "--skip-validation"]
    subprocess.run(
        [*words, f"--output-manifest-file={manifest}"],
        env={"PATH": f"{Path(PROGRAM).parent}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
    )
    (job,) = yaml.safe_load(manifest.read_text())["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    codes = set(rule["onExitCodes"]["values"])
    assert rule["onExitCodes"]["operator"] == "NotIn" and {1, 134, 137, 143} <= codes and not codes & {2, 3, 4, 5}
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert job["replicas"] == 2 and spec["parallelism"] == 16 and pod["terminationGracePeriodSeconds"] == 300
    assert (
        f"train {CONFIG} --out /gcs/runs/tigerjax-tiger-70b-pretrain --hosts.find tpu --seed 3"
        in container["command"][-1]
    )
    assert "xla_tpu" in {one["name"]: one["value"] for one in container["env"]}["LIBTPU_INIT_ARGS"]
