"""Talking to a base model and to what it was tuned to, side by side in a terminal."""
