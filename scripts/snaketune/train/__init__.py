"""Training: batches of packed rows, the trainer, checkpoints and metrics."""
