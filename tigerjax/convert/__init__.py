"""Checkpoints of others: Hugging Face both ways, and vocabulary resize."""
