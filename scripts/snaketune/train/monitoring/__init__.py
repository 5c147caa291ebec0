"""What a training reports about itself."""
