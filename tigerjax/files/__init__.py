"""Owns files on the disk and in buckets: paths, manifests, JSONL, compression, logs, and how progress is reported."""
