"""A training recipe for people who have no loop of their own: data, loop, checkpoints, and the demo's network."""
