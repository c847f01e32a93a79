"""launch/local.sh says what it will run, and refuses what it cannot."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = str(ROOT / "launch" / "local.sh")


def local(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([SCRIPT, *arguments], cwd=ROOT, capture_output=True, text=True)


def test_dry_run_prints_the_command_with_its_overrides_and_runs_nothing(tmp_path: Path):
    config = tmp_path / "a config.py"
    config.write_text("raise SystemExit('was run')\n")
    done = local(str(config), "--dry-run", "--optim.peak-lr", "3e-4")
    assert done.returncode == 0 and done.stderr == ""
    quoted = str(config).replace(" ", "\\ ")
    assert done.stdout.strip() == f"{ROOT}/.venv/bin/tigerjax train {quoted} --optim.peak-lr 3e-4"


def test_a_missing_config_is_named_and_exits_2():
    done = local("configs/absent.py")
    assert done.returncode == 2 and "no config file configs/absent.py" in done.stderr


def test_no_argument_prints_the_usage_and_exits_2():
    for arguments in ((), ("--dry-run",), ("--optim.peak-lr", "1")):
        done = local(*arguments)
        assert done.returncode == 2 and done.stderr.startswith("usage: "), done
