"""Sampling: n candidates a prompt, in batches, with a KV cache."""
