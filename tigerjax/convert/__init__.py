"""Checkpoints of others: Hugging Face both ways, and a vocabulary that grows."""
