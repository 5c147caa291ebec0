"""Whether a card is fit for training: every method for a few steps, exactness, determinism, memory and throughput."""
