"""What a graph takes for granted: the ways that Python branches went on the example inputs.

Each assumption is checked when the graph runs, by a ``torch._assert`` node in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from fxprune.graph import graphs_of

ASSUMPTIONS = "fxprune_assumptions"


@dataclass(frozen=True)
class Assumption:
    """One assumption: the source line that asked, what was assumed, and the name of the node that checks it."""

    source: str
    what: str
    node: str

    @property
    def message(self) -> str:
        """What the graph says when it is called with inputs for which the assumption fails."""
        return assertion_message(self.source, self.what)


def assertion_message(source: str, what: str) -> str:
    """Return the message of the assertion node."""
    return f"{source}: the graph was traced where {what}; these inputs differ: trace the model on inputs like them"


def all_assumptions(graph_module: fx.GraphModule) -> list[Assumption]:
    """Return what ``graph_module`` and the regions in its opaque modules assume; their nodes with full paths."""
    return [
        replace(one, node=f"{prefix}.{one.node}" if prefix else one.node)
        for prefix, graph in graphs_of(graph_module)
        for one in assumptions_of(graph)
    ]


def assumptions_of(graph_module: fx.GraphModule) -> tuple[Assumption, ...]:
    """Return what ``graph_module`` assumes and checks about its inputs, in the order of its code."""
    return tuple(graph_module.meta.get(ASSUMPTIONS, ()))
