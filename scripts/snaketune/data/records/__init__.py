"""From a line to a canonical record, or to the quarantine."""
