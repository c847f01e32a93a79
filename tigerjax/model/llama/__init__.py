"""layers, decoding, numbers, Hugging Face names, reward head."""
