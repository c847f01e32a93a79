"""Decoding in a stream: the text of an answer as its ids come, without half characters."""

from tigerjax.tokenizer.load import Tokenizer

HALF = "\ufffd"
LONGEST = 3
"""The most bytes of a character that is not whole yet."""


class Stream:
    """The texts that `add` and `end` return are, one after the other, `decode` of all ids.

    A character of several tokens comes with its last one. Memory and time for an id do not grow with the answer. One
    decoder of Hugging Face, ByteFallback, replaces all bytes of a run where the last of them make no character; bytes
    that made one before stay in a stream.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._before: list[int] = []
        """Ids that have given all their text. They stay, as a decoder drops the space before the first of a text."""
        self._ids: list[int] = []
        self._shown = 0
        """The characters of the text of both that were returned."""

    def add(self, i: int) -> str:
        """The text that is whole with this id; often one piece, and empty within a character.

        Raises DataError for an id that the tokenizer does not have.
        """
        self._ids.append(int(i))
        text = self._tokenizer.decode([*self._before, *self._ids])
        whole = text.rstrip(HALF)
        stable = max(len(whole), len(text) - LONGEST)
        new = text[self._shown : stable]
        self._shown = max(self._shown, stable)
        if new and stable == len(text):
            self._before, self._ids = self._ids, []
            self._shown = len(self._tokenizer.decode(self._before))
        return new

    def end(self) -> str:
        """What is left: bytes that became no character, each as U+FFFD."""
        text = self._tokenizer.decode([*self._before, *self._ids])
        new, self._before, self._ids, self._shown = text[self._shown :], [], [], 0
        return new
