"""Duplicate and near-duplicate records, leaks into the held-out split, and contamination with evaluation texts."""
