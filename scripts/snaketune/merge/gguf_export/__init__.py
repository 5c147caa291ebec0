"""The merged model as GGUF files."""
