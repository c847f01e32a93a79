"""What README.md tells a reader to type works: its blocks under `<!-- run -->` are run by docs/scripts/pages.py."""

import subprocess
import sys
from pathlib import Path

from tigerjax.model import families

ROOT = Path(__file__).resolve().parents[1]


def test_the_commands_of_the_readme_work():
    command = [sys.executable, "docs/scripts/pages.py", "--check", "README.md"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "<!-- run -->" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readmes_name_every_family_that_is_read():
    for page in ("README.md", "README.zh.md"):
        text = (ROOT / page).read_text(encoding="utf-8").lower()
        assert [f.KIND for f in families.FAMILIES if f.KIND not in text] == [], page
