"""A graph as torch.save can write it, for what has no source: graphs with opaque modules.

torch.save(fxprune.strip(graph_module), "model.pt")
model = torch.load("model.pt", weights_only=False)      # needs the user's own classes, and not fxprune
"""

from __future__ import annotations

from torch import fx, nn

from fxprune.applied import Applied
from fxprune.arguments import require_arguments
from fxprune.copies import copy_graphs
from fxprune.errors import EmitError
from fxprune.graph import require_graph
from fxprune.module_tree import every_path
from fxprune.node_targets import set_attribute
from fxprune.scaled_layer import ScaledLayer


def strip(graph_module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of ``graph_module`` that computes the same and holds nothing of fxprune's; layers are shared.

    It has no example inputs, origins or costs any more: do this last. Raises EmitError if scales are still in it.
    """
    require_arguments(strip, locals())
    graphs = copy_graphs(require_graph(graph_module, "strip"))
    plain = graphs[0][1]
    for path, module in every_path(plain).items():
        if isinstance(module, Applied):
            set_attribute(plain, path, _plainly_applied(module))
        if isinstance(module, ScaledLayer):
            raise EmitError(f"{path} is still a {type(module).__name__}; apply fxprune.AFTER_TRAINING first")
    for _, graph in graphs:
        graph.meta.clear()
        graph._tracer_cls = None
        for node in graph.graph.nodes:
            node.meta = {}
    return plain


def _plainly_applied(applied: Applied) -> nn.Module:
    """Return a module of torch's own that does what ``applied`` does."""
    made = nn.Module()
    made.forward = applied.function.apply
    return made
