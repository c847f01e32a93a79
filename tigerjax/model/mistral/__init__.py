"""Mistral: a Llama whose tokens may see a window only. `face` is what other rooms use of it."""
