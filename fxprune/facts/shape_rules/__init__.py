"""Shapes with sizes that are not known: what holds of them for every input that a graph takes."""
