"""Evaluation: what a model gets right, measured."""
