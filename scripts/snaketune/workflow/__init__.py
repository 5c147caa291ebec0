"""Everything behind the rules: stages, their inputs and identities, and the upkeep of a working directory."""
