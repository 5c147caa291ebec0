"""Chat templates, and what of a rendered conversation is trained."""
