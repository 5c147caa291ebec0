"""Source files of any container, as blocks of whole records."""
