"""Data preparation from raw lines to packed rows, in bounded memory and with every record accounted for."""
