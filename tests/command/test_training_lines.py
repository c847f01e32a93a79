"""What a training run says at its start, and of its progress."""

import json

from tigerjax.command import cli


def test_the_start_is_quiet_without_an_accelerator_and_changes_nothing_with_one(tmp_path):
    def started(**given: str) -> dict[str, str]:
        environ = dict(given)
        cli.quiet_start(environ, str(tmp_path))
        return environ

    assert started()["JAX_PLATFORMS"] == "cpu"
    assert started(JAX_PLATFORMS="")["JAX_PLATFORMS"] == ""
    assert "JAX_PLATFORMS" not in started(JAX_FORCE_TPU_INIT="1")
    for device in ("accel0", "vfio/0", "nvidia0", "kfd"):
        path = tmp_path / "dev" / device
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert "JAX_PLATFORMS" not in started(), device
        path.unlink()
    vendor = tmp_path / "sys" / "bus" / "pci" / "devices" / "0000:00:05.0" / "vendor"
    vendor.parent.mkdir(parents=True)
    vendor.write_text("0x8086\n")
    assert started()["JAX_PLATFORMS"] == "cpu"
    vendor.write_text("0x1ae0\n")
    assert "JAX_PLATFORMS" not in started()


def test_an_sft_run_tells_its_progress_at_10k_examples_and_warns_when_it_is_low(tmp_path, capsys):
    from types import SimpleNamespace

    from tigerjax.command.training import _progress

    def told(kind, losses):
        rows = SimpleNamespace(folder=tmp_path / kind, figures={"records": 500}, rows=100)
        rows.folder.mkdir(exist_ok=True)
        (rows.folder / "manifest.json").write_text(json.dumps({"config": {"kind": kind}}))
        logged = [{"step": 10 * i, "loss_nats": loss, "start_loss_nats": 5.0} for i, loss in enumerate(losses, start=1)]
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in logged))
        loader = SimpleNamespace(sources=[rows], rates={kind: 1.0})
        return _progress(SimpleNamespace(global_batch_size=100), tmp_path, loader)  # 500 examples a step: 10,000 in 20

    assert told("documents", [5.0, 3.0, 1.0]) == {}
    assert told("sft", [5.0, 1.0, 1.0]) == {"progress_at_10k_examples": 1.0} and not capsys.readouterr().err
    assert told("sft", [5.0, 4.0, 1.0])["progress_at_10k_examples"] == (5 - 4) / (5 - 2.5)
    assert "warning: after 10,000 examples the loss had 40% of its fall behind it" in capsys.readouterr().err
