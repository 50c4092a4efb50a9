"""Pruning without training: choose, remove, repair."""
