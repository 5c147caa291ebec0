"""The tiny model, made from scratch."""
