"""Drop an activation whose input always lies where it is the identity.

relu(x) -> x  where x >= 0        relu6(x) -> x  where 0 <= x <= 6
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.facts.ranges import UNKNOWN, activation_range, bounds_of_values
from fxprune.facts.updated_buffers import updated_values
from fxprune.rewriting.contract import Contract, Log, Pass


@dataclass(frozen=True)
class DropRedundantActivations(Pass):
    """Drop each ReLU, ReLU6, Hardtanh or abs whose input never leaves its linear range."""

    name: ClassVar[str] = "drop-redundant-activations"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Drop every such activation."""
        nodes = graph_module.graph.nodes
        activations = [(node, linear) for node in nodes if (linear := activation_range(node)) is not None]
        if not activations:
            return
        bounds = bounds_of_values(graph_module)
        updated = updated_values(graph_module)
        for node, linear in activations:
            source = node.args[0] if node.args else None
            if not isinstance(source, fx.Node) or source in updated:
                continue
            low, high = bounds.get(source, UNKNOWN)
            if not (linear[0] <= low and high <= linear[1]):
                continue
            log.rewrote(node, f"its input {source.name} is never below {low:g}{_above(high)}: it is the identity")
            node.replace_all_uses_with(source, propagate_meta=False)
            graph_module.graph.erase_node(node)


def _above(high: float) -> str:
    return "" if high == float("inf") else f" or above {high:g}"
