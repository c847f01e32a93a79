"""Weights & Biases by a stand-in that records its calls: off unless asked for, one run over restarts, no obstacle."""

import dataclasses
import os
import sys
from types import SimpleNamespace

import pytest
from tiny_run import SILENT, TinyLoader, tiny_config

from tigerjax.errors import ConfigError
from tigerjax.train import wandb_run
from tigerjax.train.loop import train

KEY = "0123456789abcdef0123456789abcdef01234567"


class StandIn:
    """What is used of the module `wandb`; `fails` names the calls that raise."""

    def __init__(self, fails=()):
        self.fails, self.calls, self.logged = fails, [], []
        self.Settings = lambda **given: SimpleNamespace(**given)

    def _called(self, name, given):
        self.calls.append((name, given))
        if name in self.fails:
            raise ConnectionError(f"{name}: no route to the server for {KEY}\nand a second line")

    def init(self, **given):
        self.asked_from = sys.stdin.name
        self._called("init", given)
        return self

    def define_metric(self, name, step_metric):
        self._called("define_metric", {"name": name, "step_metric": step_metric})

    def log(self, values):
        self._called("log", values)
        self.logged.append(values)

    def finish(self, exit_code):
        self._called("finish", {"exit_code": exit_code})

    def of(self, name):
        return [given for called, given in self.calls if called == name]


@pytest.fixture
def put(monkeypatch):
    """A function that puts a stand-in in the place of the package, and gives it back."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)

    def place(module):
        monkeypatch.setitem(sys.modules, "wandb", module)
        return module

    return place


def run(folder, loader=None, wandb=None):
    reporting = dataclasses.replace(SILENT, wandb=wandb)
    return train(tiny_config(), loader or TinyLoader(), run_dir=folder, reporting=reporting)


def test_without_the_option_the_package_is_not_touched(put, tmp_path):
    stand_in = put(StandIn())
    run(tmp_path)
    assert not stand_in.calls and not (tmp_path / wandb_run.ID_FILE).exists()


def test_each_logged_step_is_told_with_its_scalars_and_shares(put, tmp_path):
    stand_in = put(StandIn())
    run(tmp_path, wandb="tigers")
    (init,) = stand_in.of("init")
    assert init["project"] == "tigers" and init["name"] == "tiny" and init["dir"] == str(tmp_path)
    assert init["config"]["optim.peak_lr"] == "0.01" and init["settings"].console == "off"
    assert stand_in.asked_from == os.devnull  # a terminal would be asked for a login, and waited for
    assert init["settings"].finish_timeout == wandb_run.END_SECONDS and init["settings"].finish_timeout_raises
    assert stand_in.of("define_metric") == [{"name": "*", "step_metric": "step"}]
    assert [values["step"] for values in stand_in.logged] == [1, 2, 3, 4, 5, 6]
    assert stand_in.logged[-1]["loss_nats"] < stand_in.logged[0]["loss_nats"]
    assert stand_in.logged[-1]["shares/tiny"] == 1.0 and stand_in.of("finish") == [{"exit_code": 0}]
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files and not any(KEY.encode() in p.read_bytes() for p in files)


def test_a_restart_goes_on_in_the_same_run_and_another_run_has_another_id(put, tmp_path):
    stand_in = put(StandIn())
    with pytest.raises(RuntimeError, match="the machine is gone"):
        run(tmp_path / "one", TinyLoader(crash_at=5), wandb="tigers")
    assert stand_in.of("finish") == [{"exit_code": 1}]
    run(tmp_path / "one", wandb="tigers")
    run(tmp_path / "two", wandb="tigers")
    first, again, other = stand_in.of("init")
    assert first["id"] == again["id"] == (tmp_path / "one" / wandb_run.ID_FILE).read_text().strip() != other["id"]
    assert again["resume"] == "allow"


@pytest.mark.parametrize("fails", ["init", "define_metric", "log", "finish"])
def test_a_failure_is_one_line_without_the_key_and_training_goes_on(fails, put, tmp_path, capsys):
    stand_in = put(StandIn(fails=(fails,)))
    assert int(run(tmp_path, wandb="tigers").step) == 6
    said = [line for line in capsys.readouterr().err.splitlines() if "Biases" in line]
    assert said == [
        f"warning: Weights & Biases: ConnectionError: {fails}: no route to the server for ***;"
        " the run continues without it"
    ]
    assert len(stand_in.of(fails)) == 1 and stand_in.calls[-1][0] == fails  # nothing is tried after it


def test_a_missing_package_is_said_before_any_work(put, tmp_path, capsys):
    from tigerjax.command import cli

    put(None)  # what Python keeps of a module that cannot be imported
    with pytest.raises(ConfigError, match="pip install wandb"):
        run(tmp_path / "run", wandb="tigers")
    command = f"train configs/llama2_tiny.py --wandb tigers --out {tmp_path / 'other'}"
    assert cli.main(command.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install wandb" in line and not (tmp_path / "other").exists()
