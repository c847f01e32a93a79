"""What gives an answer its reward: a reward model, a Python function, a judge behind an API, or a sum of several."""
