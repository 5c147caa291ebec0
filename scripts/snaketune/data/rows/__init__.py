"""Tokenised documents in rows of equal length: maximum length, cutting, packing and the files."""
