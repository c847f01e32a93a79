"""Files on disk and in buckets: paths, manifests, lines of JSON, logs that grow, how progress is reported."""
