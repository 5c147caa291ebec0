"""Loading the base model and selecting its trained weights."""
