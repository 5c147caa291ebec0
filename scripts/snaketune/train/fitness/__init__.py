"""Checks of a GPU: every method for a few steps, exactness, determinism, memory and throughput."""
