"""Drop nodes that return their input.

Identity(x), x * 1, x + 0, x / 1, dropout with p = 0   ->   x
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.facts.shapes import META, same_shape
from fxprune.facts.updated_buffers import updated_values
from fxprune.ops.call import Call
from fxprune.ops.op import Op
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import RulePass


@dataclass(frozen=True)
class DropIdentities(RulePass):
    """Drop nn.Identity, multiplication by 1, addition of 0 and the like."""

    name: ClassVar[str] = "drop-identities"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def check(self, node: fx.Node, facts: Facts) -> int | None:
        """Return which argument ``node`` returns as it is, if any."""
        call = Call(node)
        op = call.op
        if op is None or (op.name != "identity" and op.neutral is None) or call.claims is None:
            return None
        place = 0 if op.neutral is None else _kept(call, op)
        if place is None or call.operand(place) in facts(updated_values):  # x * 1 is a copy of x
            return None
        return place

    def rewrite_at(self, node: fx.Node, found: int, rewriter: Rewriter) -> None:
        """Let its readers read that argument."""
        source = Call(node).operand(found)
        rewriter.log.rewrote(node, f"returns its input {source.name}")
        rewriter.replace(node, source)


def _kept(call: Call, op: Op) -> int | None:
    """Return the place of the operand that is returned unchanged since the other one is neutral, or None."""
    both = [call.argument(one.name) for one in op.parameters[:2]]
    for place in (0, 1) if op.commutes else (0,):
        value, other = both[place], both[1 - place]
        is_neutral = isinstance(other, (int, float)) and not isinstance(other, bool) and other == op.neutral
        if not is_neutral or not isinstance(value, fx.Node):
            continue
        if same_shape(value, call.node) or _are_sizes(value, call.node):
            return place
    return None


def _are_sizes(*nodes: fx.Node) -> bool:
    """Say whether each of ``nodes`` is known to be a whole number, as sizes are."""
    return all(type(node.meta.get(META)) is int for node in nodes)
