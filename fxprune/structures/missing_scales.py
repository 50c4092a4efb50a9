"""Why a graph has no layer with a scale, and what to do: for the errors of what needs one."""

from __future__ import annotations

from torch import fx

from fxprune.ir.nodes import graphs_of
from fxprune.ir.trace_notes import hiding_convs
from fxprune.structures.branches import find_branches
from fxprune.structures.conv_sites import find_conv_sites


def why_no_scales(graph_module: fx.GraphModule) -> str:
    """Return why no layer of ``graph_module`` has a scale: none was put in, or none can be."""
    graphs = [graph for _, graph in graphs_of(graph_module)]
    convs = any(site.eligible for graph in graphs for site in find_conv_sites(graph))
    if convs or any(branch.eligible for graph in graphs for branch in find_branches(graph)):
        return "put scales in first, with insert-resconv and insert-branch-scale"
    for one in hiding_convs(graph_module):
        return f"none can have one: {one}"
    return "none of its convs and branches can have one (fxprune inspect says why)"
