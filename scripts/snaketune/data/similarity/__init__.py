"""Equal and similar records."""
