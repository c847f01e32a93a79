"""paths on disk and in buckets, manifests, lines of JSON, logs that grow."""
