"""Combine constant factors on the same value.

(x * a) * b     ->   x * (a b)
x * a + x * b   ->   x * (a + b)        (a residual block that lost both convs is relu((1 + a1 a2) * x))
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import fx

from fxprune.facts.constant_factors import constant_factor
from fxprune.facts.shapes import is_floating, same_shape
from fxprune.facts.updated_buffers import updated_values
from fxprune.ops.call import operands
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import FUNCTIONS, RulePass


class Multiple(NamedTuple):
    """A value that is ``factor`` times ``source``, and what lies between."""

    source: fx.Node
    factor: float
    parts: list[fx.Node]


@dataclass(frozen=True)
class CombineScales(RulePass):
    """Combine products and sums of constant multiples of one value into a single multiple."""

    name: ClassVar[str] = "combine-scales"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = FUNCTIONS

    def check(self, node: fx.Node, facts: Facts) -> Multiple | None:
        """Find a product with a multiple, and a sum of two multiples of one value."""
        combined = _product(node) or _sum(node)
        if combined is None or combined.source in facts(updated_values):  # x would be read later than it was
            return None
        return combined

    def rewrite_at(self, node: fx.Node, found: Multiple, rewriter: Rewriter) -> None:
        """Multiply the value once."""
        source, factor, parts = found
        rewriter.log.rewrote(node, f"is {source.name} * {factor:.4g}")
        args = (source, factor)
        rewriter.replace(node, rewriter.insert("call_function", operator.mul, args, before=node, of=[*parts, node]))


def _product(node: fx.Node) -> Multiple | None:
    outer = constant_factor(node)
    inner = constant_factor(outer[0]) if outer else None
    if outer is None or inner is None:
        return None
    return Multiple(inner[0], inner[1] * outer[1], [outer[0]])


def _sum(node: fx.Node) -> Multiple | None:
    left, right = operands(node, "add") or (None, None)
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    (x, a), (y, b) = (constant_factor(part) or (part, 1.0) for part in (left, right))
    if x is not y or not is_floating(x) or not same_shape(x, node):
        return None
    return Multiple(x, a + b, [part for part in (left, right) if part is not x])
