"""words of the command line to calls."""
