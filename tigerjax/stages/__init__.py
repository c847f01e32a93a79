"""Stages of data work: a file cut into parts, steps over the parts, and the runners of the steps."""
