"""Base, tuned and merged model on the held-out split: likelihoods of packed rows and greedy answers."""
