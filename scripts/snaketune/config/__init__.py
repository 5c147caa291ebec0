"""Configuration: the schema, the layers that values are resolved from, and the checks."""
