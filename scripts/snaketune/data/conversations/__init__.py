"""Turns, reasoning and tool calls, however they are written."""
