"""What a node computes times what it stands for, where a constant factor went into the weights before it.

Plain data in ``node.meta``. What has no entry computes what it stands for.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import fx

FACTOR = "fxprune_folded_factor"


def note_factor(last: fx.Node, first: Collection[fx.Node], factor: float) -> None:
    """Note that ``last``, and all nodes from ``first`` on that lead to it, compute ``factor`` times what they did."""
    leads: dict[fx.Node, bool] = {}
    waiting = [last]
    while waiting:
        node = waiting[-1]
        before = () if node in first else node.all_input_nodes
        unknown = [one for one in before if one not in leads]
        if unknown:
            waiting += unknown
            continue
        leads[waiting.pop()] = node in first or any(leads[one] for one in before)
    for node, is_scaled in leads.items():
        if is_scaled:
            node.meta[FACTOR] = folded_factor(node) * factor


def folded_factor(node: fx.Node) -> float:
    """Return the factor of ``node``."""
    found: float = node.meta.get(FACTOR, 1.0)
    return found
