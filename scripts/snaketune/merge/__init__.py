"""Merging an adapter into its base model, shard by shard, and verifying the result."""
