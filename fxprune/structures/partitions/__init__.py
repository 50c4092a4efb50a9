"""Chains of linear layers that can be split into partitions which need nothing of each other."""
