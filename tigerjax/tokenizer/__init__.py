"""Vocabulary: sample, train, extend by the merge rule, verify, export; one chat encoding for every stage."""
