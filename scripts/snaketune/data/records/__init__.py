"""Conversion of lines into canonical records, and the quarantine of those that cannot be converted."""
