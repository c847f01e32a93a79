"""Checkpoints: arrays and models on disk, whole or placed onto a mesh."""
