"""Tokenisation: token ids, loss masks, and the audit of the masks."""
