"""Arithmetic on weights."""
