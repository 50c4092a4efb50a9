"""Passes in a row, and by name."""
