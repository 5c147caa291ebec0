"""Charts and their curves."""
