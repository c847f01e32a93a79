"""The tokenizer of the server's tests: a token is a byte, so a character or a stop string spans several."""

from tiny_model import ByteTokenizer


class Bytes(ByteTokenizer):
    def bytes_of(self, i: int) -> bytes:
        return bytes([i - 3]) if 3 <= i < 259 else b""
