"""Attention, loss and layers that are faster than the model's own, and equal to them."""
