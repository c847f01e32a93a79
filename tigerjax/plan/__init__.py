"""Planning a run on a TPU slice that is not there: memory, time and search by ahead-of-time compilation."""
