"""Uniform channel pruning: widths found by gates of attention, and a plain network of them (arXiv 2010.01251)."""
