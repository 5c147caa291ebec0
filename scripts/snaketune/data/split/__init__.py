"""Held-out and training records."""
