"""Hours and dollars."""
