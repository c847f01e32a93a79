"""The mixtures that the pages name, of files of the small world."""

import re
import sys
from pathlib import Path

from small_world import ROOT


def my_mixture() -> None:
    """The mixture of docs/tutorials/mixture.md, of files of the small world."""
    text = (ROOT / "docs" / "tutorials" / "mixture.md").read_text(encoding="utf-8")
    source = re.search(r"<!-- file: my_mixture.py -->\n```python\n(.*?)^```", text, re.M | re.S)[1]
    for theirs, ours in (("runs/mixture/clean", "."), ("runs/mixture/tokenizer", "tok"), ("/corpus_", "/")):
        assert theirs in source
        source = source.replace(theirs, ours)
    Path("my_mixture.py").write_text(source, encoding="utf-8")
    sys.modules.pop("my_mixture", None)


def my_anneal() -> None:
    """Two more mixtures of my_mixture.py, with the names of docs/DATA.md."""
    my_mixture()
    more = "".join(
        f"pretraining({name!r}, tokenizer='tok', sources={{{lang!r}: Source('{lang}.jsonl')}})\n"
        for name, lang in (("mine", "en"), ("mine_anneal", "zh"))
    )
    with Path("my_mixture.py").open("a", encoding="utf-8") as file:
        file.write(f"\nfrom tigerjax.data.mixture import pretraining\n{more}")
