"""Turn each BranchScale back into a plain sum.

x + s * r   (BranchScale)   ->   x + r * s   ->   x + r',    s folded into r's last layer by FoldScale
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.gates.branch_scale import BranchScale
from fxprune.ir.nodes import called_module, input_at
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import LAYERS, RulePass
from fxprune.structures.gated_layers import gauge_weights


@dataclass(frozen=True)
class FuseBranchScale(RulePass):
    """Replace each BranchScale by the sum of shortcut and branch times its scale."""

    name: ClassVar[str] = "fuse-branch-scale"
    after: ClassVar[tuple[str, ...]] = ("remove-layers", "remove-branches")
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = LAYERS

    def check(self, node: fx.Node, facts: Facts) -> float | None:
        """Find a BranchScale, and return its scale."""
        module = called_module(node)
        return module.coefficient(*gauge_weights(node)) if isinstance(module, BranchScale) else None

    def rewrite_at(self, node: fx.Node, found: float, rewriter: Rewriter) -> None:
        """Replace it by the sum; the weights that its scale was in units of are no longer read."""
        shortcut, branch, *_ = node.args
        rewriter.log.rewrote(node, f"scale {found:.4g} now multiplies the branch")
        if found != 1:
            branch = rewriter.insert(
                "call_function", operator.mul, (branch, found), before=node, of=[input_at(node, 1)]
            )
        total = rewriter.insert("call_function", operator.add, (shortcut, branch), before=node, of=[node])
        rewriter.replace_computation(node, total)
