"""Talking to a model: requests that come at any time, answered side by side."""
