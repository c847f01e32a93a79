"""The libtpu flags of every generation: the installed compiler knows every one, and refuses one that is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_targets import CONFIG, SETTINGS, launch

from tigerjax.errors import ConfigError
from tigerjax.plan import flags, topology

FOLDER = Path(__file__).parents[2] / "tigerjax" / "plan" / "libtpu_flags"
FILES = sorted(FOLDER.glob("*.txt"))
DESCRIBE = """
from jax.experimental import topologies
topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1", chip_config_name="megacore",
                             chips_per_host_bounds=(2, 2, 1), num_slices=1)
print("accepted")
"""


def ask_libtpu(arguments: str) -> subprocess.CompletedProcess:
    """Loads libtpu with these flags. It reads them only when it is loaded, so each question needs a new process."""
    env = os.environ | topology.COMPILER_ENVIRONMENT | {"LIBTPU_INIT_ARGS": arguments}
    return subprocess.run([sys.executable, "-c", DESCRIBE], env=env, capture_output=True, text=True)


def test_every_generation_that_can_be_planned_for_has_a_file():
    assert {path.name for path in FILES} == {f"{chip}.txt" for chip in topology.CHIPS} | {flags.SEVERAL_SLICES}
    assert any(flags.read(path) for path in FILES)


@pytest.mark.parametrize("target", ["tpu-vm", "gke", "xpk"])
def test_several_slices_get_flags_beside_those_of_their_generation(target):
    name = "--xla_tpu_prefer_async_allgather_to_allreduce=true"
    one = launch(target, CONFIG, "--dry-run", **SETTINGS)
    assert one.returncode == 0 and name not in one.stdout, one.stderr
    two = launch(target, CONFIG, "--dry-run", SLICES="2", MESH="128", **SETTINGS)
    assert two.returncode == 0, two.stderr
    assert name in two.stdout and "sparse_core_collective_offload_all_gather=true" in two.stdout


def test_a_plan_of_several_slices_has_their_flags():
    one, two = (flags.of(topology.parse("v5p:4x4x4", slices)) for slices in (1, 2))
    assert two == one | {"xla_tpu_prefer_async_allgather_to_allreduce": "true"} != one


@pytest.mark.tpu
def test_the_installed_libtpu_accepts_every_flag_of_every_file_and_refuses_one_that_is_not_there():
    arguments = sorted({f"--{name}={value}" for path in FILES for name, value in flags.read(path).items()})
    run = ask_libtpu(" ".join(arguments))
    assert run.returncode == 0 and "accepted" in run.stdout, run.stderr[-2000:]
    run = ask_libtpu("--xla_tpu_flag_that_is_not_there=true")
    assert "accepted" not in run.stdout and "xla_tpu_flag_that_is_not_there" in run.stderr


def test_a_line_that_is_no_flag_is_refused_with_its_number(tmp_path):
    path = tmp_path / "flags.txt"
    path.write_text("# none\n--xla_a=true  # a reason\nxla_b=false\n")
    with pytest.raises(ConfigError, match=r"flags\.txt:3: 'xla_b=false' must be --name=value"):
        flags.read(path)
    path.write_text("# none\n--xla_a=true  # a reason\n\n")
    assert flags.read(path) == {"xla_a": "true"}
    with pytest.raises(ConfigError, match="do not exist"):
        flags.read(tmp_path / "other.txt")


@pytest.mark.parametrize("target", ["tpu-vm", "gke", "gke-serve", "xpk"])
def test_libtpu_flags_of_the_environment_take_the_place_of_the_files(target):
    given = "--xla_tpu_scoped_vmem_limit_kib=61440 --xla_tpu_other=true"
    settings = SETTINGS | ({"TPU": "v5p:2x2x1"} if target == "gke-serve" else {})
    done = launch(target, CONFIG, "--dry-run", LIBTPU_INIT_ARGS=given, **settings)
    assert done.returncode == 0, done.stderr
    shown = done.stdout.replace("\\", "")
    assert given in shown and "sparse_core" not in shown and "those of LIBTPU_INIT_ARGS, not" in done.stderr
    done = launch(target, CONFIG, "--dry-run", **settings)
    assert "sparse_core" in done.stdout and "LIBTPU_INIT_ARGS, not" not in done.stderr
