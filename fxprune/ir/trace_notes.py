"""What a trace notes on its graph: how it was traced, what stayed opaque, and what it takes for granted.

An assumption is the way that a Python branch went on the example inputs; it is checked when the graph runs, by a
``torch._assert`` node in it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Literal

from torch import fx

from fxprune.errors import FxpruneWarning
from fxprune.ir.nodes import OPAQUE, TIER, graphs_of

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


_ADVICE = {
    "has hooks": "take its hooks off before it is traced",
    "torch.jit": "trace the model that was compiled",
    "under autocast": "take autocast out of forward, and put it around the call",
    "; write it": "",
    "overwrites its input": "give it a copy, or write what it does out of place",
}


@dataclass(frozen=True)
class Opaque:
    """A module that stays one call: its path, why, the source line, and how many convs it hides outside regions."""

    path: str
    reason: str
    source: str | None
    hidden_convs: int

    @property
    def why(self) -> str:
        """The reason, after the source line where there is one that it does not name."""
        is_named = self.source is None or self.source.partition(": ")[2] in self.reason
        return self.reason if is_named else f"{self.source}: {self.reason}"

    @property
    def advice(self) -> str:
        """What makes it smaller, or no longer opaque; empty where the reason says so."""
        known = (advice for part, advice in _ADVICE.items() if part in self.reason)
        return next(known, "what is moved into a module of its own is opaque alone")

    def __str__(self) -> str:
        advice = f"; {self.advice}" if self.advice else ""
        return f"{self.path} is opaque and hides {convs(self.hidden_convs)}: {self.why}{advice}"


def convs(number: int) -> str:
    """Return ``number`` convs in words."""
    return f"{number} conv{'' if number == 1 else 's'}"


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


def hiding_convs(graph_module: fx.GraphModule) -> list[Opaque]:
    """Return the opaque modules that hide convs, which no pass can see."""
    return [one for one in opaque_modules(graph_module) if one.hidden_convs]


def warn_of_hidden_convs(graph_module: fx.GraphModule, stacklevel: int) -> None:
    """Warn of opaque modules that hide convs, once for each reason."""
    by_reason: dict[str, list[Opaque]] = {}
    for one in hiding_convs(graph_module):
        by_reason.setdefault(one.why, []).append(one)
    for same in by_reason.values():
        others = sum(one.hidden_convs for one in same[1:])
        more = f"; so do {len(same) - 1} more, {convs(others)}" if others else ""
        warnings.warn(f"{same[0]}{more}", FxpruneWarning, stacklevel=stacklevel + 1)
