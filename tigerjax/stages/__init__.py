"""Owns how a stage works through large inputs: parts that fit into memory, the steps over them, and their runners."""
