"""Combine constant factors on the same value.

(x * a) * b     ->   x * (a b)
x * a + x * b   ->   x * (a + b)        (a residual block that lost both convs is relu((1 + a1 a2) * x))
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxprune.facts.constant_factors import constant_factor
from fxprune.facts.shapes import is_floating, same_shape
from fxprune.facts.updated_buffers import updated_values
from fxprune.ir.nodes import inherit
from fxprune.ops.operators import ADDITIONS, calls
from fxprune.rewriting.contract import Contract, Log, Pass


@dataclass(frozen=True)
class CombineScales(Pass):
    """Combine products and sums of constant multiples of one value into a single multiple."""

    name: ClassVar[str] = "combine-scales"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Combine until nothing combines."""
        updated = updated_values(graph_module)
        for node in list(graph_module.graph.nodes):
            combined = _product(node) or _sum(node)
            if combined is None or combined[0] in updated:  # x would be read later than it was
                continue
            source, factor, parts = combined
            with graph_module.graph.inserting_before(node):
                new = graph_module.graph.call_function(operator.mul, (source, factor))
            log.rewrote(node, f"is {source.name} * {factor:.4g}")
            inherit(new, *parts, node, made_by=self.name)
            node.replace_all_uses_with(new, propagate_meta=False)
            graph_module.graph.erase_node(node)


def _product(node: fx.Node) -> tuple[fx.Node, float, list[fx.Node]] | None:
    outer = constant_factor(node)
    inner = constant_factor(outer[0]) if outer else None
    if outer is None or inner is None:
        return None
    return inner[0], inner[1] * outer[1], [outer[0]]


def _sum(node: fx.Node) -> tuple[fx.Node, float, list[fx.Node]] | None:
    if not calls(node, ADDITIONS) or node.kwargs or len(node.args) != 2:
        return None
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node):
        return None
    (x, a), (y, b) = (constant_factor(part) or (part, 1.0) for part in (left, right))
    if x is not y or not is_floating(x) or not same_shape(x, node):
        return None
    return x, a + b, [part for part in (left, right) if part is not x]
