"""the queue, the labels they write, Label Studio, and their agreement."""
