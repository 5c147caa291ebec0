"""Notes for the user on standard error."""

import sys


def say(sentence: str) -> None:
    """Print a note for the user."""
    print(f"Note: {sentence}", file=sys.stderr, flush=True)
