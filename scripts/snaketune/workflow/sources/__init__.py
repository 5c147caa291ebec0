"""Names and digests of sources, models and templates when the workflow starts."""
