"""Channels taken out of a graph: what is kept of each value, of each tensor, and in each argument; and the proof."""
