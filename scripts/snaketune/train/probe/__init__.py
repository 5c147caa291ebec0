"""Short trainings that measure speed and memory."""
