"""The tokenizer: train, extend, verify, export, and the one encoding of a chat."""
