"""Which channels can go together, in any graph: labels that are moved, joined and read as the graph moves values."""
