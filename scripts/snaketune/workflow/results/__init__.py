"""The results and their records: owners, provenance, leftovers, pruning."""
