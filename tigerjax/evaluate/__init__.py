"""Evaluation: benchmarks, checkable questions, held-out text, and the harness adapter."""
