"""Remove nodes that nothing reads and that change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.facts.effects import is_draw, is_in_place, rescales_weight
from fxprune.rewriting.contract import Contract, Log, Pass


@dataclass(frozen=True)
class EliminateDeadCode(Pass):
    """Remove nodes whose value is never used, except those that write to memory or can raise on purpose."""

    name: ClassVar[str] = "eliminate-dead-code"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Erase dead nodes, last first."""
        for node in reversed(list(graph_module.graph.nodes)):
            if not node.users and (
                is_draw(node) or not (node.is_impure() or is_in_place(node) or rescales_weight(node))
            ):
                log.rewrote(node, "its value is never used")
                graph_module.graph.erase_node(node)
