"""Alignment: reward models, preferences, and rounds of rejection sampling."""
