"""Adapters: their configuration, the layers they apply to, and embeddings of new tokens."""
