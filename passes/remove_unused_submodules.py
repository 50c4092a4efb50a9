"""Remove submodules, parameters and buffers that no node of the graph uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.ir.nodes import remove_unused_state
from fxprune.rewriting.contract import Contract, Log, Pass, Site


@dataclass(frozen=True)
class RemoveUnusedSubmodules(Pass):
    """Remove submodules, parameters and buffers that no node uses."""

    name: ClassVar[str] = "remove-unused-submodules"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Delete what is neither called nor read."""
        for target in remove_unused_state(graph_module).removed:
            log.rewritten.append(Site(target, target, "no node uses it"))
