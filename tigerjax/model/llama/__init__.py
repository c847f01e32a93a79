"""The Llama family: layers, decoding, numbers, Hugging Face names and config, probe, reward head."""
