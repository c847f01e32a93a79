"""Converts checkpoints: from and to Hugging Face folders, and to a larger vocabulary."""
