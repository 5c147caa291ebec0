"""The terminal output of the workflow: one line per stage, and a summary of the results at the end."""
