"""Conversations with a base model and its tuned model, side by side in a terminal."""
