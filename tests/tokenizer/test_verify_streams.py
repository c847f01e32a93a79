"""`tokenizer verify` holds a few thousand lines at a time, and compares those of every batch."""

import sys
import tracemalloc
from types import SimpleNamespace

import pytest

from tigerjax.tokenizer import verify as of_verify


class Theirs:
    """Gives the ids of `transformers`, but other ones to lines that say so."""

    all_special_tokens = ("<s>",)

    def __init__(self, tokenizer):
        self.tokenizer, self.batches = tokenizer, []

    def __call__(self, lines, add_special_tokens):
        self.batches.append(len(lines))
        ids = [[0] if line.startswith("other") else self.tokenizer.encode(line) for line in lines]
        return {"input_ids": ids}


@pytest.fixture
def theirs(work, monkeypatch):
    """What stands in for transformers: it need not be installed, and takes no memory of its own."""
    made = Theirs(of_verify.Tokenizer(work / "tokenizer"))
    stand_in = SimpleNamespace(AutoTokenizer=SimpleNamespace(from_pretrained=lambda folder: made))
    monkeypatch.setitem(sys.modules, "transformers", stand_in)
    monkeypatch.setattr(of_verify.importlib.util, "find_spec", lambda name: True)
    return made


def verified(work, file, lines):
    texts = (f"{'other' if n % 10 == 0 else 'line'} {n} 你好 {'of many words ' * 20}\n" for n in range(lines))
    file.write_text("".join(texts), encoding="utf-8")
    return of_verify.verify(work / "tokenizer", work / "base_tokenizer", [file])


def test_the_lines_of_every_batch_are_compared(work, theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(of_verify, "HF_LINES", 8)
    assert verified(work, tmp_path / "lines.txt", 500)["hf_mismatches"] == 50
    assert max(theirs.batches) == 8 and sum(theirs.batches) >= 500


def test_memory_does_not_grow_with_the_lines(work, theirs, tmp_path, monkeypatch):
    monkeypatch.setattr(of_verify, "HF_LINES", 16)
    peaks = []
    for lines in (50, 100, 300):  # the first fills the caches
        tracemalloc.start()
        verified(work, tmp_path / f"{lines}.txt", lines)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1], peaks  # the text of a line and its ids take more than 1 kB
