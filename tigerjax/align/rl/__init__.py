"""Owns reinforcement learning: prompts, rewards, roll-outs and the run that trains on them."""
