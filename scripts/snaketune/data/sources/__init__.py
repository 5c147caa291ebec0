"""Source files of any container (lines of JSON, JSON text, CSV, Parquet, Arrow), read as blocks of whole records."""
