"""Clean text to batches: sources, rows of tokens, mixtures, caches, the loader."""
