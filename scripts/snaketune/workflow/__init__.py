"""Everything behind the rules: stages, their inputs and identities, and the lifecycle of a working directory."""
