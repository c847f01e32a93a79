"""A request to the engine, and who waits for its answers."""

import threading

from tigerjax.serve.engine import AnswerPiece, Ask
from tigerjax.tokenizer.chat import encode_prompt

LONG_S = 60  # a wait that ends only when something is wrong


class Answers:
    """What one request is given, and when it is over."""

    def __init__(self, n: int):
        self.pieces: list[AnswerPiece] = []
        self.n = n
        self.done = threading.Event()

    def __call__(self, piece: AnswerPiece) -> None:
        self.pieces.append(piece)
        if sum(p.finish is not None for p in self.pieces) == self.n:
            self.done.set()

    def result(self) -> list[tuple[list[int], str]]:
        """(ids, finish) of each answer."""
        assert self.done.wait(LONG_S)
        ids = [[i for p in self.pieces if p.answer == k for i in p.ids] for k in range(self.n)]
        ends = {p.answer: p.finish for p in self.pieces if p.finish is not None}
        return [(ids[k], ends[k]) for k in range(self.n)]


def ask(tiny, text: str, prompt_id: str, **changes) -> Ask:
    ids = tuple(encode_prompt(tiny.tokenizer, [{"role": "user", "content": text}]))
    how = {"max_new_tokens": 12, "temperature": 0.9, "top_p": 0.95, "top_k": 0, "seed": 0}
    return Ask(**({"ids": ids, "prompt_id": prompt_id} | how | changes))
