"""What can be taken out of a graph."""
