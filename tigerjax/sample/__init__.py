"""Sampling: n candidates per prompt, in batches, with a KV cache."""
