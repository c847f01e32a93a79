"""Ctrl-C at any time ends in one line and exit 130, also while the program is still importing."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tigerjax.command import cli

ROOT = Path(__file__).resolve().parents[2]
INTERRUPT = """
import sys
import time
import tigerjax.__main__ as program

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
sys.argv = ["tigerjax", "data", "stats", "none", "--seq-len", "8"]
sys.exit(program.main())
"""


@pytest.mark.parametrize(
    "name", ["tigerjax.command", "tigerjax.command.cli", "tigerjax.config.run", "tigerjax.data.mixture"]
)
def test_ctrl_c_during_the_imports_is_one_line(name):
    done = subprocess.run([sys.executable, "-c", INTERRUPT.format(name=name)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "tigerjax: interrupted; run the same command again to continue\n"


def test_ctrl_c_that_a_library_turned_into_an_error_of_its_own_is_an_interruption(monkeypatch, capsys):
    """As numpy's core does, which raises ImportError for whatever happens in it."""

    def run(args):
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ImportError("numpy.core.multiarray failed to import") from error

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main([]) == 130 and "interrupted" in capsys.readouterr().err


def test_ctrl_c_names_the_same_command_only_where_it_continues(monkeypatch, tmp_path, capsys):
    def interrupted(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tigerjax.text.clean.clean_files", interrupted)
    monkeypatch.setattr("tigerjax.serve.opened.open_to_talk", interrupted)
    assert cli.main(["data", "clean", "--input", "a.jsonl", "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err.endswith("tigerjax: interrupted; run the same command again to continue\n")
    assert cli.main(["chat", str(tmp_path)]) == 130
    assert capsys.readouterr().err.endswith("tigerjax: interrupted\n")


def test_the_installed_program_begins_in_the_module_that_imports_nothing_yet():
    assert "tigerjax = tigerjax.__main__:main" in (ROOT / "setup.py").read_text(encoding="utf-8")
    code = "import sys, tigerjax.__main__; sys.exit(any(name.startswith('tigerjax.command') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_ctrl_c_that_python_drops_in_a_callback_is_raised_again(monkeypatch):
    """As in the callbacks of JAX that run while garbage is collected."""
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)

    class Callback:
        def __del__(self):
            raise KeyboardInterrupt

    cli.hush_threads()
    try:
        with pytest.raises(KeyboardInterrupt):
            Callback()
            time.sleep(3600)  # an interrupt that came only after it had waited would be past the time of a test
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_interrupted_program_ends_at_once_although_threads_are_at_work():
    code = "import tigerjax.command.cli as cli, tigerjax.__main__ as m, threading, time; cli.main = lambda: 130\n"
    code += "threading.Thread(target=time.sleep, args=(60,)).start(); print('said'); m.main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout) == (130, "said\n")
