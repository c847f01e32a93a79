"""Plans: a step compiled ahead of time for a TPU slice that is not there."""
