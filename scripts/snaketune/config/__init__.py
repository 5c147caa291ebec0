"""Configuration: the schema, the layers it is resolved from, and the identity of each stage."""
