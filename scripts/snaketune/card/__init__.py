"""Model cards: the README.md of the adapter and of the merged model, generated from fact files alone."""
