"""Peak memory and parameter counts, before anything is allocated."""
