"""What a trace notes on its graph: how it was traced, what stayed opaque, and what it takes for granted.

An assumption is the way that a Python branch went on the example inputs; it is checked when the graph runs, by a
``torch._assert`` node in it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import fx

from fxprune.graph import OPAQUE, TIER, graphs_of

ASSUMPTIONS = "fxprune_assumptions"
Tier = Literal["symbolic", "values", "opaque"]


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


@dataclass(frozen=True)
class Opaque:
    """A module that stays one call: its path, why, the source line, and how many convs it hides outside regions."""

    path: str
    reason: str
    source: str | None
    hidden_convs: int

    @property
    def why(self) -> str:
        """The reason, after the source line where there is one."""
        return f"{self.source}: {self.reason}" if self.source else self.reason


def tier_of(graph_module: fx.GraphModule) -> Tier:
    """Return how ``graph_module`` was traced: the last tier that it took."""
    tier: Tier = graph_module.meta.get(TIER, "symbolic")
    return tier


def opaque_modules(graph_module: fx.GraphModule) -> list[Opaque]:
    """Return every module that stayed opaque, those inside regions included, with full paths."""
    return [
        replace(one, path=f"{prefix}.{one.path}" if prefix else one.path)
        for prefix, graph in graphs_of(graph_module)
        for one in graph.meta.get(OPAQUE, ())
    ]
