"""The gate: a merged model is checked before anything uses it."""
