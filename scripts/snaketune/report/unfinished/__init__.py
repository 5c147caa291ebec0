"""Runs that failed, were killed or are under way."""
