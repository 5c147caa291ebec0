"""Fact files: what one stage writes for others to read, each with a declared type and a format number."""
