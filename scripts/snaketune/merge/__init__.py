"""Merging an adapter into its base model, shard by shard, and proving that the result is the same model."""
