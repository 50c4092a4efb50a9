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
from fxprune.ir.nodes import called_module, input_at
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import RulePass

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
class DropIdentities(RulePass):
    """Drop nn.Identity, multiplication by 1, addition of 0 and the like."""

    name: ClassVar[str] = "drop-identities"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def check(self, node: fx.Node, facts: Facts) -> int | None:
        """Return which argument ``node`` returns as it is, if any."""
        place = _passed_through(node)
        if place is None or node.args[place] in facts(updated_values):  # x * 1 is a copy of x
            return None
        return place

    def rewrite_at(self, node: fx.Node, found: int, rewriter: Rewriter) -> None:
        """Let its readers read that argument."""
        source = input_at(node, found)
        rewriter.log.rewrote(node, f"returns its input {source.name}")
        rewriter.replace(node, source)


def _passed_through(node: fx.Node) -> int | None:
    """Return the place of the argument that ``node`` returns unchanged, or None."""
    module = called_module(node)
    if type(module) is nn.Identity and not has_hooks(module) and isinstance(node.args[0], fx.Node):
        return 0
    if node.target not in _NEUTRAL or node.kwargs or len(node.args) != 2:
        return None
    neutral, commutes = _NEUTRAL[node.target]
    for place in (0, 1) if commutes else (0,):
        value, other = node.args[place], node.args[1 - place]
        is_neutral = isinstance(other, (int, float)) and not isinstance(other, bool) and other == neutral
        if is_neutral and isinstance(value, fx.Node) and (same_shape(value, node) or _are_sizes(value, node)):
            return place
    return None


def _are_sizes(*nodes: fx.Node) -> bool:
    """Say whether each of ``nodes`` is known to be a whole number, as sizes are."""
    return all(type(node.meta.get(META)) is int for node in nodes)
