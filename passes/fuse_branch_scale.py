"""Turn each BranchScale back into a plain sum.

x + s * r   (BranchScale)   ->   x + r * s   ->   x + r',    s folded into r's last layer by FoldScale
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.gates.branch_scale import BranchScale
from fxprune.ir.nodes import called_module, inherit
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.structures.gated_layers import gauge_weights


@dataclass(frozen=True)
class FuseBranchScale(Pass):
    """Replace each BranchScale by the sum of shortcut and branch times its scale."""

    name: ClassVar[str] = "fuse-branch-scale"
    after: ClassVar[tuple[str, ...]] = ("remove-layers", "remove-branches")
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Replace every BranchScale."""
        graph = graph_module.graph
        for node in list(graph.nodes):
            module = called_module(node)
            if not isinstance(module, BranchScale):
                continue
            scale = module.coefficient(*gauge_weights(node))
            shortcut, branch, *weights = node.args
            assert isinstance(branch, fx.Node)
            log.rewrote(node, f"scale {scale:.4g} now multiplies the branch")
            with graph.inserting_before(node):
                if scale != 1:
                    product = graph.call_function(operator.mul, (branch, scale))
                    inherit(product, branch, made_by=self.name)
                    branch = product
                total = graph.call_function(operator.add, (shortcut, branch))
            inherit(total, node, made_by=self.name)
            node.replace_all_uses_with(total, propagate_meta=False)
            graph.erase_node(node)
            for read in weights:
                if isinstance(read, fx.Node) and not read.users:
                    graph.erase_node(read)
