"""Documents in rows of equal length."""
