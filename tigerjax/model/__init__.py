"""What model families share: attention, the stack of layers, the pipeline, the loss, weights and their names."""
