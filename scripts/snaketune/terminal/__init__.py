"""What a run of the workflow says in the terminal: one line per stage, and at the end what it made."""
