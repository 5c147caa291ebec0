"""The split into training and held-out records, sampling of sources, and their weights."""
