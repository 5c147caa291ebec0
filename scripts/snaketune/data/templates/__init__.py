"""Chat templates: rendering of conversations, and the character spans that are trained."""
