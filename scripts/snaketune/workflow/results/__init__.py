"""What the results and their records say: owners, provenance, leftovers, pruning."""
