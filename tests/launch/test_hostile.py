"""Hostile and odd text in every setting and argument of every target: refused in one line, or passed on as it is.

The output of a dry run is read as its reader reads it: YAML, the lines of sbatch, the words of a shell.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_targets import CONFIG, ROOT, SETTINGS, launch

NAMED = {
    "gke": "IMAGE BUCKET TPU JOB_NAME SLICES QUEUE SERVICE_ACCOUNT GRACE_S RESTARTS".split(),
    "gke-serve": "IMAGE BUCKET TPU KEYS JOB_NAME SERVICE_ACCOUNT START_S DRAIN_S".split(),
    "xpk": "CLUSTER PROJECT ZONE TPU_TYPE IMAGE BUCKET JOB_NAME SLICES RESTARTS GRACE_S PRIORITY".split(),
    "tpu-vm": "PROJECT ZONE TPU_TYPE IMAGE BUCKET TPU_NAME RUNTIME SLICES SPOT RESTARTS POLL_S KEEP".split(),
    "slurm": "NODES GPUS_PER_NODE TIME PARTITION ACCOUNT JOB_NAME".split(),
    "local-processes": "PROCESSES DEVICES RESTARTS PORT".split(),
}
for cloud in ("gke", "gke-serve", "xpk", "tpu-vm"):
    NAMED[cloud].append("LIBTPU_INIT_ARGS")
"""The settings with a form, by target. Those without one are SETUP of slurm, and TIGERJAX and LOGS, which are paths."""


def hostile(marker: Path) -> list[str]:
    """Texts that would run `touch MARKER`, end a line or begin an option where they are not quoted."""
    touch = f"touch {marker}"
    return [
        f"a\n#SBATCH --wrap='{touch}'\n{touch}\n",
        f"a\" $({touch}) `{touch}` '; {touch} #",
        f"a[$({touch})]",
        "-x",
        "é中\u2028\u0085x: &y",
        "\x1b[2J\x7f\ta\\",
    ]


@pytest.mark.parametrize("target", NAMED)
def test_a_setting_that_has_a_form_is_refused_in_one_line_where_it_differs(target, tmp_path):
    for name in NAMED[target]:
        for value in hostile(tmp_path / "ran")[:3]:
            size = {"NODES": "8"} if target == "slurm" else {"PROCESSES": "8", "DEVICES": "8"}
            size |= {"TPU": "v5p:2x2x1"} if target == "gke-serve" else {}
            done = launch(target, CONFIG, "--dry-run", **(SETTINGS | size | {name: value}))
            assert done.returncode == 2 and done.stdout == "", (name, value, done)
            assert re.fullmatch(rf"launch/run\.sh {target}: {name}=[ -~]* is not [ -~]+\n", done.stderr), done.stderr
    assert not (tmp_path / "ran").exists()


def test_every_setting_in_the_head_of_a_target_is_checked_or_known_to_be_free():
    for path in sorted((ROOT / "launch" / "targets").glob("*.sh")):
        head = path.read_text().split("set -euo")[0]
        named = set(re.findall(r"\b[A-Z][A-Z_]{2,}\b", re.sub(r"\([^)]*\)", "", head)))
        known = {
            "GKE",
            "TPU",
            "CPU",
            "SIGTERM",
            "SIGKILL",
            "CONFIG",
            "FUSE",
            "PROJECT",
            "SETUP",
            "GENERATION",
            "MODEL",
            "API",
            "JOB_NAME",
        }
        known |= {"TPU_NAME", "GPU"}
        assert named <= set(NAMED.get(path.stem, [])) | known, path


def words_of(target: str, output: str) -> list[str]:
    """The words that tigerjax would get, from the output of a dry run."""
    if target == "gke-serve":
        deployment, _ = yaml.safe_load_all(output)
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        words = [word.replace("$$", "$") for word in container["args"]]
        assert words[:2] == ["serve", f"/gcs/{CONFIG}"] and words[-8:-6] == ["--host", "0.0.0.0"]
        return ["train", CONFIG, *words[2:-8]]  # so that it is compared like those of the others
    if target == "gke":
        (job,) = yaml.safe_load(output)["spec"]["replicatedJobs"]
        (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
        return [word.replace("$$", "$") for word in container["args"]]
    if target == "slurm":
        (line,) = [line for line in output.split("\n") if line.startswith("srun ")]
    elif target == "local":
        (line,) = output.splitlines()
    elif target == "local-processes":
        line = output.splitlines()[0]
    else:
        (line,) = [line for line in output.splitlines() if "--command=" in line]
        (line,) = [word for word in bash_words(line) if word.startswith("--command=")]
        line = line.removeprefix("--command=").split(" || {")[0].split("; echo")[0].split("2>&1; ")[-1]
    words = bash_words(line)
    return words[words.index("train") :]


def bash_words(line: str) -> list[str]:
    """The words that bash makes of a line without running any of them."""
    script = f"printf '%s\\0' {line}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True, cwd="/")
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize("target", ["local", *NAMED])
def test_words_reach_tigerjax_as_they_are_whatever_is_in_them(target, tmp_path):
    words = [
        "--name",
        *hostile(tmp_path / "ran"),
        "",
        "$(JAX_COMPILATION_CACHE_DIR) $$ $",
        "two  blanks ",
        "*",
        "~",
        "!!",
    ]
    size = {"NODES": "8"} if target == "slurm" else {"PROCESSES": "8", "DEVICES": "8"}
    size |= {"TPU": "v5e:2x4"} if target == "gke-serve" else {}
    done = launch(target, CONFIG, "--dry-run", *words, **(SETTINGS | size))
    assert done.returncode == 0, done.stderr
    found = words_of(target, done.stdout)
    assert found[0] == "train" and found[1] == CONFIG and found[-len(words) :] == words
    lines = done.stdout.split("\n")
    assert not any("touch" in line and line.startswith(("#SBATCH", "touch")) for line in lines)
    assert not (tmp_path / "ran").exists()


def test_setup_of_slurm_is_one_statement_that_cannot_reach_beyond_itself():
    setup = "module load 'cuda'\nexport A=b"
    done = launch("slurm", CONFIG, "--dry-run", NODES="8", SETUP=setup)
    (line,) = [line for line in done.stdout.split("\n") if line.startswith("eval ")]
    assert done.returncode == 0 and shlex.split(f"x {bash_words(line)[1]}")[1:3] == ["module", "load"]
    assert bash_words(line)[1] == setup
    done = launch("slurm", CONFIG, "--dry-run", NODES="8", SETUP="echo 'open")
    assert done.returncode == 2 and "SETUP=echo 'open is no whole command of bash" in done.stderr and not done.stdout


@pytest.mark.parametrize("target", ["gke", "xpk", "tpu-vm", "slurm"])
def test_a_config_outside_the_checkout_is_refused_and_nothing_is_submitted(target, tmp_path):
    config = tmp_path / "my run.py"
    config.write_text("")
    for arguments in (("--dry-run",), ()):
        done = launch(target, str(config), *arguments, JOB_NAME="a", TPU_NAME="a", **SETTINGS)
        assert done.returncode == 2 and done.stdout == "" and "is outside the repository" in done.stderr, done


def real(folder: Path) -> str:
    """A program that runs this tigerjax."""
    path = folder / "tigerjax"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m tigerjax "$@"\n')
    path.chmod(0o755)
    return str(path)


def test_an_impossible_mesh_an_unknown_override_and_a_config_that_cannot_be_imported_are_refused(tmp_path):
    tigerjax = real(tmp_path)
    broken = tmp_path / "broken.py"
    broken.write_text("import sibling_that_is_elsewhere\n")
    for target, arguments, words in [
        ("gke", (CONFIG,), "the mesh of configs/tiger_70b_pretrain.py has 256 devices, but this target has 64"),
        ("slurm", (CONFIG, "--mesh.fsdpp", "8"), "no option --mesh.fsdpp"),
        ("local", (str(broken),), "No module named 'sibling_that_is_elsewhere'"),
        ("local", (CONFIG, "--data.modules", "no.such.module"), "data.modules: no.such.module cannot be imported"),
    ]:
        done = launch(target, *arguments, "--dry-run", TIGERJAX=tigerjax, **SETTINGS)
        assert done.returncode == 2 and words in done.stderr and done.stdout == "", (target, done)
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_a_mesh_that_does_not_split_over_the_slices_is_refused(tmp_path):
    stand_in = tmp_path / "tigerjax"
    stand_in.write_text("#!/bin/sh\necho mesh.data = 3\necho mesh.fsdp = 64\n")
    stand_in.chmod(0o755)
    settings = SETTINGS | {"TPU_TYPE": "v6e-96", "SLICES": "2", "TIGERJAX": str(stand_in)}
    done = launch("xpk", CONFIG, "--dry-run", **settings)
    assert done.returncode == 2 and "mesh.data=3 is not a multiple of SLICES=2" in done.stderr


def test_where_tigerjax_is_not_there_the_launcher_says_that_it_checked_nothing():
    done = launch("gke", CONFIG, "--dry-run", TIGERJAX="/no/such/tigerjax", **SETTINGS)
    assert done.returncode == 0 and "note: the config was not checked" in done.stderr
