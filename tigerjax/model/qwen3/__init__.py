"""Qwen3: a Llama with norms of queries and keys. `face` is what other rooms use of it."""
