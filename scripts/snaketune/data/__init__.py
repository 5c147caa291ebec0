"""Data: from raw lines to packed rows, in bounded memory, every record accounted for."""
