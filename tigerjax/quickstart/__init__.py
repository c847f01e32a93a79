"""The quick start: the whole recipe, end to end, on the embedded data."""
