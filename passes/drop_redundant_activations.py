"""Drop an activation whose input always lies where it is the identity.

relu(x) -> x  where x >= 0        relu6(x) -> x  where 0 <= x <= 6
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.facts.ranges import UNKNOWN, activation_range, bounds_of_values
from fxprune.facts.updated_buffers import updated_values
from fxprune.ops.call import Call
from fxprune.ops.op import Bounds
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import RulePass


@dataclass(frozen=True)
class DropRedundantActivations(RulePass):
    """Drop each ReLU, ReLU6, Hardtanh or abs whose input never leaves its linear range."""

    name: ClassVar[str] = "drop-redundant-activations"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def check(self, node: fx.Node, facts: Facts) -> Bounds | None:
        """Find an activation, and return the bounds of its input if it is the identity between them."""
        linear = activation_range(node)
        source = Call(node).input if linear is not None else None
        if linear is None or source is None or source in facts(updated_values):
            return None
        low, high = facts(bounds_of_values).get(source, UNKNOWN)
        return (low, high) if linear[0] <= low and high <= linear[1] else None

    def rewrite_at(self, node: fx.Node, found: Bounds, rewriter: Rewriter) -> None:
        """Let its readers read its input."""
        low, high = found
        source = Call(node).operand(0)
        rewriter.log.rewrote(
            node, f"its input {source.name} is never below {low:g}{_above(high)}: it is the identity"
        )
        rewriter.replace(node, source)


def _above(high: float) -> str:
    return "" if high == float("inf") else f" or above {high:g}"
