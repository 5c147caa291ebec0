"""Recognition of a source's format from its first records, and messages for sources that are ambiguous."""
