"""The base model of a run: a hub repository pinned to a commit, a local folder or a tiny model trained here."""
