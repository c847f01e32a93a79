"""The model: attention, how layers run, Llama, its reward form, and decoding with a cache."""
