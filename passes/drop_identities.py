"""Drop nodes that return their input.

Identity(x), x * 1, x + 0, x / 1, dropout with p = 0   ->   x
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn

from fxprune.facts.shapes import META, same_shape
from fxprune.facts.updated_buffers import updated_values
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module
from fxprune.rewriting.contract import Contract, Log, Pass

_NEUTRAL: dict[Any, tuple[float, bool]] = {
    operator.mul: (1, True),
    torch.mul: (1, True),
    operator.add: (0, True),
    torch.add: (0, True),
    operator.truediv: (1, False),
    torch.div: (1, False),
    operator.sub: (0, False),
    torch.sub: (0, False),
}


@dataclass(frozen=True)
class DropIdentities(Pass):
    """Drop nn.Identity, multiplication by 1, addition of 0 and the like."""

    name: ClassVar[str] = "drop-identities"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Drop every identity."""
        updated = updated_values(graph_module)
        for node in list(graph_module.graph.nodes):
            source = _passed_through(node)
            if source is not None and source not in updated:  # x * 1 is a copy of x
                log.rewrote(node, f"returns its input {source.name}")
                node.replace_all_uses_with(source, propagate_meta=False)
                graph_module.graph.erase_node(node)


def _passed_through(node: fx.Node) -> fx.Node | None:
    """Return the input that ``node`` returns unchanged, or None."""
    module = called_module(node)
    if type(module) is nn.Identity and not has_hooks(module) and isinstance(node.args[0], fx.Node):
        return node.args[0]
    if node.target not in _NEUTRAL or node.kwargs or len(node.args) != 2:
        return None
    neutral, commutes = _NEUTRAL[node.target]
    left, right = node.args
    for value, other in ((left, right), (right, left) if commutes else (left, right)):
        is_neutral = isinstance(other, (int, float)) and not isinstance(other, bool) and other == neutral
        if is_neutral and isinstance(value, fx.Node) and (same_shape(value, node) or _are_sizes(value, node)):
            return value
    return None


def _are_sizes(*nodes: fx.Node) -> bool:
    """Say whether each of ``nodes`` is known to be a whole number, as sizes are."""
    return all(type(node.meta.get(META)) is int for node in nodes)
