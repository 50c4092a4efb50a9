"""How much each part of a network is missed, before anything is pruned."""
