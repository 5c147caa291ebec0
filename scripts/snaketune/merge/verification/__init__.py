"""Verification of a merged model before it is published."""
