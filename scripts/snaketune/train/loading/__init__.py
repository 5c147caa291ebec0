"""The base model, and what of it is trained."""
