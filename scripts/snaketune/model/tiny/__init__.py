"""The tiny model: tokenizer and weights trained from scratch, for the quickstart and for tests."""
