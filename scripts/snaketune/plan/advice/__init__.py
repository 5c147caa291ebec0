"""Alternatives to the configured run, and their costs."""
