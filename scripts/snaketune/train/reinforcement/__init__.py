"""Reinforcement learning: GRPO through TRL."""
