"""Token ids and loss masks."""
