"""Short real trainings that measure."""
