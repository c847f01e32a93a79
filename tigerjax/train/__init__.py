"""Level 3: the loss, the optimiser, the state, the step, checkpoints, metrics and the loop that drives them."""
