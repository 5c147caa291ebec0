"""What the rules are made from: stages, their inputs and identities, and the care of a working directory."""
