"""The ResConvs of a graph, and how many of them must go for a target."""

from __future__ import annotations

from torch import fx

from fxprune.errors import TargetError
from fxprune.facts.costs import batch_size, node_macs, total_macs
from fxprune.graph import TRACED_MACS, called_module
from fxprune.resconv import ResConv


def resconvs(graph_module: fx.GraphModule) -> list[tuple[fx.Node, ResConv]]:
    """Return the nodes that call a ResConv, with the modules, in graph order."""
    calls = ((node, called_module(node)) for node in graph_module.graph.nodes)
    return [(node, module) for node, module in calls if isinstance(module, ResConv)]


def count_for_target(graph_module: fx.GraphModule, ranked: list[fx.Node], target_macs: float) -> int:
    """Return how many of ``ranked``, from its start, must go to leave at most ``target_macs`` of the traced MACs.

    Raises TargetError if all of them are not enough.
    """
    left = total_macs(graph_module)
    total = graph_module.meta.get(TRACED_MACS, left)
    if left <= target_macs * total:
        return 0
    for count, node in enumerate(ranked, start=1):
        left -= node_macs(node) // batch_size(graph_module)
        if left <= target_macs * total:
            return count
    raise TargetError(
        f"target_macs={target_macs:g} cannot be met: without all {len(ranked)} removable layers "
        f"{left / total:.3f} of the MACs are left; ask for at least {left / total + 5e-4:.3f}"
    )
