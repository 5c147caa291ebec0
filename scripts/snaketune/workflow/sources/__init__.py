"""Sources, models and templates as they are when the workflow starts: names and digests."""
