"""Alignment: reward models, and rounds of rejection sampling with the help of people."""
