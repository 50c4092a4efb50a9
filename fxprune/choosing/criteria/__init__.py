"""How much a graph misses a layer: a criterion a file."""
