"""What the first records of a source are read as, and the sentences for those that cannot be told."""
