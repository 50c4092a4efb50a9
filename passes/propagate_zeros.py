"""Follow values that are always zero, as behind a removed layer whose shortcut is zero.

x + 0              ->   x
x + conv(0)        ->   x + b          b: the conv's bias; exact at the borders too
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import fx, nn

from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.ranges import ZERO, bounds_of_values
from fxprune.facts.shapes import note_shape, same_shape
from fxprune.facts.updated_buffers import updated_storages, updated_tensor, updated_values
from fxprune.ir.node_targets import free_target
from fxprune.ir.nodes import called_module
from fxprune.ops.call import Call, is_a, operands
from fxprune.ops.layer_classes import CONV_CLASSES
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import FUNCTIONS, RulePass
from fxprune.weights.exact import exact, keeping_exact, make_parameter


class Sum(NamedTuple):
    """A sum whose argument at ``kept`` is left, and of the other one at most a bias: that of a conv of zeros."""

    kept: int
    leaves_bias: bool


@dataclass(frozen=True)
class PropagateZeros(RulePass):
    """Drop sums with values that are always zero, and convolutions of zeros."""

    name: ClassVar[str] = "propagate-zeros"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = FUNCTIONS

    def check(self, node: fx.Node, facts: Facts) -> Sum | None:
        """Find a sum with a zero or with a conv of zeros."""
        for kept, value, other in _terms(node):
            bounds = facts(bounds_of_values)
            is_zero = bounds.get(other) == ZERO
            is_left = is_zero or _is_conv_of_zeros(other, bounds)
            if not is_left or not facts(EqualShapes).equal(value, node):  # for every input: it broadcasts nothing
                continue
            if is_zero and value not in facts(updated_values):  # a sum is a copy
                return Sum(kept, leaves_bias=False)
            if not is_zero and not _is_updated(other, facts(updated_storages)):
                return Sum(kept, leaves_bias=True)
        return None

    def rewrite_at(self, node: fx.Node, found: Sum, rewriter: Rewriter) -> None:
        """Take the other term for the sum, or the conv's bias for its output."""
        call = Call(node)
        other = call.operand(1 - found.kept)
        if found.leaves_bias:
            rewriter.log.rewrote(other, "its input is always zero: only its bias is left")
            rewriter.replace_input(node, other, _bias(other, rewriter))
        else:
            rewriter.log.rewrote(node, f"{other.name} is always zero")
            rewriter.replace(node, call.operand(found.kept))


def _bias(conv_node: fx.Node, rewriter: Rewriter) -> fx.Node:
    """Return a node that holds the conv's bias, shaped to broadcast over its output."""
    conv = called_module(conv_node)
    assert isinstance(conv, CONV_CLASSES)
    bias = conv.bias
    assert bias is not None
    owner, dot, name = str(conv_node.target).rpartition(".")
    made = _reshaped(bias, (-1, *[1] * len(conv.kernel_size)))
    target = rewriter.put(free_target(rewriter.graph_module, f"{owner}{dot}bias_{name}"), made)
    constant = rewriter.insert("get_attr", target, before=conv_node, of=[conv_node])
    note_shape(constant, made)
    return constant


@keeping_exact
def _reshaped(bias: torch.Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    return make_parameter(exact(bias).reshape(shape), bias, bias.requires_grad)


def _terms(node: fx.Node) -> list[tuple[int, fx.Node, fx.Node]]:
    """Return the terms of a sum that dropping a zero would leave as they are: their places, they, the others."""
    left, right = operands(node, "add", "sub") or (None, None)
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or left is right:
        return []
    pairs = [(0, left, right), *([(1, right, left)] if is_a(node, "add") else [])]
    return [(place, kept, other) for place, kept, other in pairs if same_shape(kept, node)]


def _is_updated(conv_node: fx.Node, storages: frozenset[int]) -> bool:
    conv = called_module(conv_node)
    return conv is not None and updated_tensor(conv, storages) is not None


def _is_conv_of_zeros(node: fx.Node, bounds: dict[fx.Node, tuple[float, float]]) -> bool:
    call = Call(node)
    source = call.input
    if call.kind != "conv" or call.module is None or source is None or bounds.get(source) != ZERO:
        return False
    return call.exact is not None and isinstance(call.module.bias, nn.Parameter)
