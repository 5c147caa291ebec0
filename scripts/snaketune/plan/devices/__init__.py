"""What devices offer and cost."""
