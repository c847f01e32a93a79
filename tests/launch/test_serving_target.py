"""The target that serves a model: what its dry run prints is a Deployment and a Service that ask no key for health."""

import shlex

import pytest
import yaml
from test_targets import SETTINGS, calls, launch, stand_in

from tigerjax.command.arguments import bind
from tigerjax.command.serve import serve

ON_ONE_HOST = SETTINGS | {"TPU": "v5e:2x4"}


def manifests(*words: str, **settings: str) -> tuple[dict, dict]:
    done = launch("gke-serve", "runs/tiger_7b_sft", "--dry-run", *words, **(ON_ONE_HOST | settings))
    assert done.returncode == 0, done.stderr
    deployment, service = yaml.safe_load_all(done.stdout)
    return deployment, service


def test_they_are_what_kubernetes_own_schema_wants():
    import kubernetes_validate

    for made in manifests():
        kubernetes_validate.validate(made, "1.33", strict=True)


def test_the_service_reaches_the_port_at_which_the_server_answers_its_probes():
    deployment, service = manifests(JOB_NAME="talk", DRAIN_S="45", START_S="601")
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    call = bind(serve, container["args"][1:], "tigerjax serve")
    (port,) = container["ports"]
    assert call.given["--port"] == port["containerPort"] and call.given["--host"] == "0.0.0.0"
    assert str(call.given["model"]) == "/gcs/runs/tiger_7b_sft" and call.given["--drain-s"] == 45
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
    start = container["startupProbe"]
    assert start["failureThreshold"] * start["periodSeconds"] == 610
    # What comes before SIGTERM, what may still run then, and some seconds to spare.
    assert pod["spec"]["terminationGracePeriodSeconds"] > 10 + 45
    (keys,) = [m for m in container["volumeMounts"] if m["name"] == "keys"]
    assert str(call.given["--api-key-file"]).startswith(keys["mountPath"] + "/") and keys["readOnly"]
    assert container["resources"]["limits"] == {"google.com/tpu": 8}


@pytest.mark.parametrize("tpu", ["v5e:4x4", "v5p:4x4x4", "v5e:8"])
def test_more_than_one_host_is_refused(tpu):
    done = launch("gke-serve", "runs/x", "--dry-run", **(SETTINGS | {"TPU": tpu}))
    assert done.returncode == 2 and f"TPU={tpu}" in done.stderr and done.stdout == ""


@pytest.mark.parametrize("model", ["gs://my-bucket/runs/x", "/gcs/runs/x"])
def test_a_model_is_a_path_in_the_bucket(model):
    done = launch("gke-serve", model, "--dry-run", **ON_ONE_HOST)
    assert done.returncode == 2 and "is not a path in the bucket" in done.stderr


def test_a_missing_setting_is_named_and_a_wrong_option_is_refused_before_anything_is_applied(tmp_path):
    for name in ("IMAGE", "BUCKET", "TPU", "KEYS"):
        done = launch("gke-serve", "runs/x", **{k: v for k, v in ON_ONE_HOST.items() if k != name})
        assert done.returncode == 2 and f"set {name} in the environment: " in done.stderr
    path = stand_in(tmp_path, "kubectl", "true")
    stand_in(tmp_path, "tigerjax", "echo tigerjax: no option --slot >&2; exit 2")
    done = launch("gke-serve", "runs/x", "--slot", "4", path=path, TIGERJAX=str(tmp_path / "tigerjax"), **ON_ONE_HOST)
    assert done.returncode == 2 and "no option --slot" in done.stderr
    (called,) = [shlex.split(call) for call in calls(tmp_path)]
    assert called[:2] == ["tigerjax", "serve"] and called[-1] == "--dry-run"


def test_it_applies_what_the_dry_run_prints(tmp_path):
    path = stand_in(tmp_path, "kubectl", f"cat > {tmp_path}/applied")
    done = launch("gke-serve", "runs/tiger_7b_sft", path=path, **ON_ONE_HOST)
    assert done.returncode == 0 and calls(path) == ["kubectl apply -f -"]
    assert tuple(yaml.safe_load_all((tmp_path / "applied").read_text())) == manifests()
