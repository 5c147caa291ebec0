"""Turns, reasoning and tool calls in the notations that data sets use."""
