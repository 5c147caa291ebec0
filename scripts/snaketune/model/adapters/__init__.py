"""Which layers an adapter goes to."""
