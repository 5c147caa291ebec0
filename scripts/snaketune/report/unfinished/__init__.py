"""Runs that failed, were killed or are in progress."""
