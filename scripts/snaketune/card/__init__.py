"""Model cards: the README.md of the adapter and of the merged model, made from fact files alone."""
