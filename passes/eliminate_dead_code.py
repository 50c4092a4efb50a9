"""Remove nodes that nothing reads and that change nothing.

y = f(x), which nothing reads   ->   (nothing)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.facts.effects import is_draw, is_in_place, rescales_weight
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import CALLS, RulePass


@dataclass(frozen=True)
class EliminateDeadCode(RulePass):
    """Remove nodes whose value is never used, except those that write to memory or can raise on purpose."""

    name: ClassVar[str] = "eliminate-dead-code"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = (*CALLS, "get_attr")

    def check(self, node: fx.Node, facts: Facts) -> bool | None:
        """Find a node that nothing reads; what it alone needed is found once it is gone."""
        if node.users:
            return None
        return is_draw(node) or not (node.is_impure() or is_in_place(node) or rescales_weight(node)) or None

    def rewrite_at(self, node: fx.Node, found: bool, rewriter: Rewriter) -> None:
        """Erase it."""
        rewriter.log.rewrote(node, "its value is never used")
        rewriter.erase([node])
