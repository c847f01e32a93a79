"""A stand-in for a model whose scores are a function of the text."""

import hashlib

from tiny_model import ByteTokenizer


def likelihood(text: str) -> float:
    """A log-probability of a text that no order or batch could give by luck: from its hash, in (-100, 0)."""
    return -(1 + int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 99_000) / 1000


class StandIn:
    """Answers as an Answerer does; remembers what it was asked, as text with [I] and [R] for the markers."""

    writes = True

    def __init__(self, says=lambda text: ""):
        self.tokenizer, self.context, self.asked, self.says = ByteTokenizer(), 100_000, [], says

    def text(self, ids):
        marks = {259: "[I]", 260: "[R]", 2: "[E]"}
        out, run = "", []
        for i in [*ids, None]:
            if i in marks or i is None:
                out += self.tokenizer.decode(run) + marks.get(i, "")
                run = []
            else:
                run.append(i)
        return out

    def loglikelihoods(self, requests, progress=None):
        assert all(first == 1 for _, first in requests)
        self.asked += [self.text(ids) for ids, _ in requests]
        return [(likelihood(self.text(ids)), False) for ids, _ in requests]

    def continuations(self, requests, progress=None):
        self.asked += [self.text(ids) for ids, _ in requests]
        return [self.says(self.text(ids)) for ids, _ in requests]
