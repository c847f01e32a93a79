"""The configs of other objectives that the pages show can be loaded, beside the one that they take the rest from."""

import re
import shutil
from pathlib import Path

import pytest

from tigerjax import config
from tigerjax.config import KtoConfig, PpoConfig

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [("REINFORCEMENT.md", "quickstart_grpo", PpoConfig), ("ALIGNMENT.md", "quickstart_dpo", KtoConfig)]


@pytest.mark.parametrize(("page", "beside", "kind"), SHOWN)
def test_the_config_that_a_page_shows_is_that_of_another_objective_and_else_the_same(page, beside, kind, tmp_path):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    ((name, source),) = re.findall(r"<!-- file: (my_\w+\.py) -->\n```python\n(.*?)^```", text, re.M | re.S)
    (tmp_path / name).write_text(source, encoding="utf-8")
    shutil.copy(ROOT / "configs" / f"{beside}.py", tmp_path)
    made, whole = config.load(str(tmp_path / name)), config.load(str(tmp_path / f"{beside}.py"))
    assert type(made.objective) is kind and made.name == Path(name).stem
    lines = [{line for line in config.dump(one) if not line.startswith(("objective", "name"))} for one in (made, whole)]
    assert lines[0] == lines[1]
