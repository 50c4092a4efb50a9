"""A graph as torch.save can write it, for what has no source: graphs with opaque modules.

torch.save(fxprune.strip(graph_module), "model.pt")
model = torch.load("model.pt", weights_only=False)      # needs the user's own classes, and not fxprune
"""

from __future__ import annotations

from torch import fx

from fxprune.branch_scale import BranchScale
from fxprune.copies import copy_graph_module
from fxprune.errors import EmitError
from fxprune.graph import graphs_of
from fxprune.resconv import ResConv


def strip(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of ``graph_module`` that computes the same and holds nothing of fxprune's; layers are shared.

    It has no example inputs, origins or costs any more: do this last. Raises EmitError if scales are still in it.
    """
    plain = copy_graph_module(graph_module)
    for path, module in plain.named_modules():
        if isinstance(module, (ResConv, BranchScale)):
            raise EmitError(f"{path} is still a {type(module).__name__}; apply fxprune.AFTER_TRAINING first")
    for _, graph in graphs_of(plain):
        graph.meta.clear()
        graph._tracer_cls = None
        for node in graph.graph.nodes:
            node.meta = {}
    return plain
