"""Qwen2 and 2.5: a Llama with biases of queries, keys and values. `face` is what other rooms use of it."""
