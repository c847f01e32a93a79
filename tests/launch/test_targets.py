"""launch/run.sh and its targets: what a dry run prints, what is refused, and what they do as the cloud changes state.

gcloud and kubectl are stand-ins that record their arguments and answer from a list; no cloud is touched.
"""

import json
import math
import os
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
STAND_IN_TIGERJAX = Path(__file__).with_name("stand_in_tigerjax.sh")
CONFIG = "configs/tiger_70b_pretrain.py"
SETTINGS = {
    "PROJECT": "my-project",
    "ZONE": "us-east5-a",
    "TPU_TYPE": "v5p-128",
    "IMAGE": "registry/tigerjax:1",
    "BUCKET": "my-bucket",
    "TPU": "v5p:4x4x4",
    "CLUSTER": "my-cluster",
    "KEYS": "my-keys",
}
TARGETS = {"local", "local-processes", "tpu-vm", "gke", "gke-serve", "xpk", "slurm"}


def launch(*arguments: str, path: Path | None = None, **settings: str) -> subprocess.CompletedProcess[str]:
    """launch/run.sh in an environment of its own; `path` holds stand-ins that come before everything."""
    found = os.environ["PATH"] if path is None else f"{path}:{os.environ['PATH']}"
    environment = {"PATH": found, "HOME": os.environ.get("HOME", "/"), "TIGERJAX": str(STAND_IN_TIGERJAX), **settings}
    script = str(ROOT / "launch" / "run.sh")
    return subprocess.run([script, *arguments], cwd=ROOT, capture_output=True, text=True, env=environment, timeout=300)


def test_the_list_names_every_target_with_a_line():
    done = launch("--list")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and {line.split()[0] for line in lines} == TARGETS
    assert all(len(line.split()) > 3 for line in lines)


def test_an_unknown_target_a_missing_config_and_no_argument_exit_2():
    for arguments, words in [
        (("cloud", CONFIG), "no target cloud; there are: gke"),
        (("../settings", CONFIG), "no target ../settings; there are: gke"),
        (("./local", CONFIG), "no target ./local; there are: gke"),
        (("local", "configs/absent.py"), "no config file configs/absent.py"),
        (("local", "--optim.peak-lr", "1"), "usage: "),
        (("local",), "usage: "),
        ((), "usage: "),
        (("--dry-run",), "usage: "),
    ]:
        done = launch(*arguments)
        assert done.returncode == 2 and words in done.stderr and done.stdout == "", (arguments, done)


@pytest.mark.parametrize(
    ("target", "missing"),
    [("tpu-vm", "PROJECT"), ("tpu-vm", "BUCKET"), ("gke", "IMAGE"), ("gke", "TPU"), ("xpk", "CLUSTER")],
)
def test_a_missing_setting_is_named(target, missing):
    done = launch(target, CONFIG, "--dry-run", **{k: v for k, v in SETTINGS.items() if k != missing})
    assert done.returncode == 2 and f"set {missing} in the environment: " in done.stderr and done.stdout == ""


def test_local_prints_the_command_with_its_overrides_and_runs_nothing(tmp_path):
    config = tmp_path / "a config.py"
    config.write_text("raise SystemExit('was run')\n")
    done = launch("local", str(config), "--dry-run", "--optim.peak-lr", "3e-4")
    assert done.returncode == 0 and done.stderr == ""
    quoted = str(config).replace(" ", "\\ ")
    assert done.stdout.strip() == f"{STAND_IN_TIGERJAX} train {quoted} --optim.peak-lr 3e-4"


def test_local_processes_prints_one_command_a_process():
    done = launch("--dry-run", "local-processes", CONFIG, PROCESSES="3", PORT="1234", MESH="6")
    assert done.returncode == 0
    for process, line in enumerate(done.stdout.splitlines()):
        assert line.startswith(f"JAX_PROCESS_ID={process} JAX_NUM_PROCESSES=3 JAX_COORDINATOR_ADDRESS=127.0.0.1:1234 ")
    assert len(done.stdout.splitlines()) == 3


@pytest.mark.parametrize(
    ("settings", "refused"),
    [
        ({"NODES": "2-4", "LEAST_DATA": "2", "MICRO_BATCHES": "3"}, None),
        ({"NODES": "2-4", "LEAST_DATA": "2"}, "NODES=3 of 2-4 has 3 of 4 copies of the model, which cannot share 4 x"),
        (
            {"NODES": "1-4", "LEAST_DATA": "2"},
            "NODES=1 of 1-4 has 1 of 4 copies of the model, fewer than mesh.least_data=2",
        ),
        ({"NODES": "2-4"}, "NODES=2 of 2-4 has 16 devices, fewer than the mesh; add --mesh.least-data"),
        ({"NODES": "4-2"}, "NODES=4-2 has the larger number first; write NODES=2-4"),
        ({"NODES": "2-"}, "NODES=2- is not a whole number from 1 on, or two with - between them, such as 2-4"),
    ],
)
def test_slurm_takes_a_range_of_nodes_where_each_number_of_them_can_go_on(settings, refused):
    done = launch("slurm", CONFIG, "--dry-run", MESH="32", SLICES="4", **settings)
    if refused is None:
        assert done.returncode == 0 and "#SBATCH --nodes=2-4\n#SBATCH --mincpus=8\n" in done.stdout, done.stderr
    else:
        assert done.returncode == 2 and refused in done.stderr and done.stdout == "", done.stderr


def test_a_start_on_fewer_copies_than_the_mesh_has_takes_least_data():
    sizes = {"PROCESSES": "1", "DEVICES": "2", "MESH": "4", "SLICES": "2"}
    assert launch("--dry-run", "local-processes", CONFIG, **sizes, LEAST_DATA="1").returncode == 0
    done = launch("--dry-run", "local-processes", CONFIG, **sizes)
    assert done.returncode == 2 and "has 4 devices, but this target has 2" in done.stderr
    done = launch("--dry-run", "local-processes", CONFIG, **(sizes | {"DEVICES": "1"}), LEAST_DATA="1")
    assert done.returncode == 2 and "this target has 1 devices, which are no whole copies of 2" in done.stderr


STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >> {log}
{body}
"""


def stand_in(folder: Path, name: str, body: str) -> Path:
    """An executable `name` that writes its arguments to FOLDER/log."""
    path = folder / name
    path.write_text(STAND_IN.format(log=folder / "log", body=body))
    path.chmod(0o755)
    return folder


def calls(folder: Path) -> list[str]:
    path = folder / "log"
    return path.read_text().splitlines() if path.is_file() else []


def test_local_processes_starts_again_after_a_loss_and_stops_at_a_final_code(tmp_path):
    """The command is a stand-in: process 1 is killed in the first start, and refuses its data in the second."""
    body = f"""
    n=$(wc -l < {tmp_path}/log)
    [ "$JAX_PROCESS_ID" = 1 ] || exit 0
    if [ ! -e {tmp_path}/again ]; then touch {tmp_path}/again; kill -9 $$; fi
    echo bad line >&2; exit 3"""
    stand_in(tmp_path, "tigerjax", body)
    done = launch("local-processes", CONFIG, TIGERJAX=str(tmp_path / "tigerjax"), RESTARTS="5")
    assert done.returncode == 3 and len(calls(tmp_path)) == 4
    assert "ended with 137; start 2 of at most 6" in done.stderr and "[1] bad line" in done.stdout


def gcloud(folder: Path, states: list[str], codes: list[int], *, create: str = "") -> Path:
    """Queued resources that go through `states`; each run on the workers ends with the next of `codes`."""
    (folder / "states").write_text("\n".join(states) + "\n")
    (folder / "codes").write_text("\n".join(map(str, codes)) + "\n")
    body = f"""
    next() {{ head -n 1 {folder}/$1; [ "$(wc -l < {folder}/$1)" -lt 2 ] || sed -i 1d {folder}/$1; }}
    case "$*" in
      *"queued-resources describe"*)
        s=$(next states)
        [ "$s" != ABSENT ] || {{ echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1; }}
        [ "$s" != NO_ANSWER ] || {{ echo "ERROR: the network is unreachable" >&2; exit 1; }}
        echo "$s" ;;
      *"queued-resources create"*) {create or "true"} ;;
      *"tpu-vm ssh"*) echo "step 1/2"; echo "tigerjax-exit $(next codes)" ;;
    esac"""
    return stand_in(folder, "gcloud", body)


def verbs(folder: Path) -> list[str]:
    """The calls of gcloud in order, without the looks at the queue."""
    words = [shlex.split(call.split("--command")[0])[4] for call in calls(folder) if call.startswith("gcloud")]
    return [word for word in words if word != "describe"]


def test_a_tpu_is_created_waited_for_used_and_deleted(tmp_path):
    path = gcloud(tmp_path, ["ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"], [0])
    done = launch("tpu-vm", CONFIG, "--seed", "3", path=path, POLL_S="0", **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert verbs(path) == ["create", "ssh", "delete"]
    for state in ("ABSENT", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"):
        assert f"is {state}" in done.stderr
    (ssh,) = [call for call in calls(path) if " ssh " in call]
    assert "--worker=all" in ssh and "--hosts.find tpu --seed 3" in ssh
    assert "--out /gcs/runs/tigerjax-tiger-70b-pretrain" in ssh and "--xla_tpu" in ssh


def test_a_preempted_tpu_is_deleted_made_again_and_the_run_goes_on(tmp_path):
    path = gcloud(tmp_path, ["ACTIVE", "SUSPENDED", "ABSENT", "ACTIVE"], [137, 0])
    done = launch("tpu-vm", CONFIG, path=path, POLL_S="0", SPOT="true", **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert verbs(path) == ["ssh", "delete", "create", "ssh", "delete"]
    assert any("--spot" in call for call in calls(path))


def test_a_look_without_an_answer_is_not_taken_for_an_absent_tpu(tmp_path):
    """A second one would be asked for, refused as it is there, and the first would go on to cost."""
    path = gcloud(tmp_path, ["PROVISIONING", "NO_ANSWER", "NO_ANSWER", "ACTIVE"], [0])
    done = launch("tpu-vm", CONFIG, path=path, POLL_S="0", **SETTINGS)
    assert done.returncode == 0, done.stderr
    assert verbs(path) == ["ssh", "delete"] and "the network is unreachable" in done.stderr
    for states in (["NO_ANSWER"], ["PROVISIONING", "NO_ANSWER"]):
        (tmp_path / "log").unlink()
        gcloud(tmp_path, states, [0])
        done = launch("tpu-vm", CONFIG, path=path, POLL_S="0", **SETTINGS)
        assert done.returncode == 1 and verbs(path) == [] and "does not say how" in done.stderr


def test_bad_data_on_the_workers_is_not_tried_again(tmp_path):
    path = gcloud(tmp_path, ["ACTIVE"], [3])
    done = launch("tpu-vm", CONFIG, path=path, POLL_S="0", **SETTINGS)
    assert done.returncode == 3 and verbs(path) == ["ssh", "delete"]


def test_a_refused_quota_ends_with_its_line_and_a_failed_request_gives_up(tmp_path):
    path = gcloud(tmp_path, ["ABSENT"], [0], create="echo 'ERROR: Quota exceeded for TPUV5P' >&2; exit 1")
    done = launch("tpu-vm", CONFIG, path=path, POLL_S="0", **SETTINGS)
    assert done.returncode == 1 and "Quota exceeded" in done.stderr and "was refused" in done.stderr
    (tmp_path / "log").unlink()
    gcloud(tmp_path, ["FAILED"], [0])
    done = launch("tpu-vm", CONFIG, path=path, POLL_S="0", RESTARTS="1", **SETTINGS)
    assert done.returncode == 1 and "given up after 2 starts" in done.stderr and "ssh" not in verbs(path)


@pytest.mark.parametrize("slices", ["1", "2"])
def test_a_dry_run_of_a_tpu_prints_every_command_and_calls_none(tmp_path, slices):
    path = gcloud(tmp_path, ["ABSENT"], [0])
    done = launch("tpu-vm", CONFIG, "--dry-run", path=path, SLICES=slices, MESH=str(64 * int(slices)), **SETTINGS)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and calls(path) == []
    assert [line[4] for line in lines] == ["create", "describe", *["ssh"] * int(slices), "delete"]
    assert ("--node-count=2" in lines[0]) == (slices == "2")


def manifest(*overrides: str, **settings: str) -> dict:
    settings = SETTINGS | settings
    shape = settings["TPU"].split(":")[1].split("x")
    devices = math.prod(map(int, shape)) * int(settings.get("SLICES", 1)) * (2 if "tpu7x" in settings["TPU"] else 1)
    done = launch("gke", CONFIG, "--dry-run", *overrides, MESH=str(devices), **settings)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


@pytest.mark.parametrize(
    ("tpu", "slices", "hosts", "chips"),
    [("v5p:4x4x4", 1, 16, 4), ("v6e:16x16", 4, 64, 4), ("tpu7x:4x4x4", 1, 16, 4)],
)
def test_the_jobset_has_a_pod_a_host_and_a_job_a_slice(tpu, slices, hosts, chips):
    found = manifest(TPU=tpu, SLICES=str(slices), QUEUE="team")
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert found["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team"}
    (job,) = found["spec"]["replicatedJobs"]
    assert job["replicas"] == slices
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"], spec["completionMode"]) == (hosts, hosts, "Indexed")
    pod = spec["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == 300 and pod["restartPolicy"] == "Never"
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"google.com/tpu": chips}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == tpu.split(":")[1]
    assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}


@pytest.mark.parametrize("settings", [{}, {"SLICES": "4", "TPU": "v6e:16x16", "QUEUE": "team"}])
def test_the_job_of_a_slice_is_one_by_kubernetes_own_schema(settings):
    """JobSet is no part of Kubernetes' schema; the Job that it makes of its template is."""
    import kubernetes_validate

    (part,) = manifest(**settings)["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": part["name"]}, **part["template"]}
    kubernetes_validate.validate(job, "1.33", strict=True)
    broken = json.loads(json.dumps(job).replace("containerName", "container"))
    with pytest.raises(kubernetes_validate.ValidationError, match="container"):
        kubernetes_validate.validate(broken, "1.33", strict=True)


def unlike(given: Any, read: Any, at: str = "") -> list[str]:
    """What of `given` is not in `read`, or is another value there."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [line for key in given for line in unlike(given[key], read.get(key), f"{at}.{key}")]
    if isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        return [line for n, pair in enumerate(zip(given, read, strict=True)) for line in unlike(*pair, f"{at}[{n}]")]
    return [] if given == read else [at]


@pytest.mark.parametrize("settings", [{}, {"SLICES": "4", "TPU": "v6e:16x16", "QUEUE": "team"}])
def test_the_jobset_is_one_by_its_published_schema(settings):
    """The classes that were made of JobSet's OpenAPI schema drop unknown fields, and refuse values of other types."""
    from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet as JobSet

    given = manifest(**settings)
    assert unlike(given, json.loads(JobSet.from_dict(given).to_json())) == []
    broken = json.loads(json.dumps(given).replace("maxRestarts", "restarts"))
    assert unlike(broken, json.loads(JobSet.from_dict(broken).to_json())) == [".spec.failurePolicy.restarts"]
    given["spec"]["replicatedJobs"][0]["replicas"] = "four"
    with pytest.raises(ValueError, match="replicas"):
        JobSet.from_dict(given)


def test_the_jobset_is_final_on_the_codes_that_tigerjax_means_so():
    from tigerjax import errors

    found = manifest()
    spec = found["spec"]["replicatedJobs"][0]["template"]["spec"]
    (rule,) = spec["podFailurePolicy"]["rules"]
    final = {e.exit_code for e in errors.TigerjaxError.__subclasses__()} - {1}  # 1: a host was lost, start again
    assert set(rule["onExitCodes"]["values"]) == final and rule["action"] == "FailJob"
    assert rule["onExitCodes"]["containerName"] == spec["template"]["spec"]["containers"][0]["name"]


def test_words_with_quotes_and_spaces_reach_the_container_as_they_are():
    odd = 'a "b" \\ c'
    found = manifest("--name", odd)
    args = found["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["args"]
    assert args[:2] == ["train", CONFIG] and args[-2:] == ["--name", odd]


def test_gke_applies_what_the_dry_run_prints(tmp_path):
    path = stand_in(tmp_path, "kubectl", f"cat > {tmp_path}/applied")
    done = launch("gke", CONFIG, path=path, **SETTINGS)
    assert done.returncode == 0 and calls(path) == ["kubectl apply -f -"]
    assert yaml.safe_load((tmp_path / "applied").read_text()) == manifest()


def test_a_topology_that_is_none_is_refused():
    for tpu in ("v5p", "v5p:64", "v9:2x2", "v5p:2x3x1"):
        done = launch("gke", CONFIG, "--dry-run", **(SETTINGS | {"TPU": tpu}))
        assert done.returncode == 2 and f"TPU={tpu}" in done.stderr, done


def test_xpk_and_slurm_say_what_they_would_run():
    done = launch("xpk", CONFIG, "--dry-run", SLICES="2", MESH="128", **SETTINGS)
    words = shlex.split(done.stdout)
    assert words[:3] == ["xpk", "workload", "create"] and "--num-slices=2" in words and "--max-restarts=100" in words
    assert "--restart-on-exit-codes=1" in words  # the others that may start again are xpk's own
    done = launch("slurm", CONFIG, "--dry-run", "--seed", "3", NODES="8", PARTITION="gpu")
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and "#SBATCH --nodes=8" in lines and "#SBATCH --partition=gpu" in lines
    assert "#SBATCH --signal=TERM@300" in lines
    (srun,) = [line for line in lines if line.startswith("srun ")]
    assert f"train {CONFIG} --hosts.find slurm --seed 3" in srun
    assert subprocess.run(["bash", "-n"], input=done.stdout, text=True).returncode == 0


def test_no_script_holds_a_secret_or_the_name_of_a_project():
    for path in sorted((ROOT / "launch").rglob("*")):
        if path.is_file():
            text = re.sub(r"the Secret \w+|secretName: \$|\bsecret:\n", "", path.read_text())  # Kubernetes' word
            assert not any(word in text.lower() for word in ("token=", "password", "api_key", "secret")), path
