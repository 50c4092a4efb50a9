"""Follow values that are always zero, as behind a removed layer whose shortcut is zero.

x + 0              ->   x
x + conv(0)        ->   x + b          b: the conv's bias; exact at the borders too
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.ranges import ZERO, bounds_of_values
from fxprune.facts.shapes import note_shape, same_shape
from fxprune.facts.updated_buffers import updated_storages, updated_tensor, updated_values
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.node_targets import free_target, set_attribute
from fxprune.ir.nodes import called_module, inherit
from fxprune.ops.layer_classes import CONV_CLASSES
from fxprune.ops.operators import ADDITIONS, SUBTRACTIONS, calls
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.weights.exact import exact, keeping_exact, make_parameter


@dataclass(frozen=True)
class PropagateZeros(Pass):
    """Drop sums with values that are always zero, and convolutions of zeros."""

    name: ClassVar[str] = "propagate-zeros"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Simplify every sum with a zero or with a conv of zeros."""
        sums = [node for node in graph_module.graph.nodes if _terms(node)]
        if not sums:
            return
        shapes = EqualShapes(graph_module)
        bounds = bounds_of_values(graph_module)
        updated, storages = updated_values(graph_module), cache(partial(updated_storages, graph_module))
        for node in sums:
            for kept, other in _terms(node):
                is_zero = bounds.get(other) == ZERO
                is_left = is_zero or _is_conv_of_zeros(other, bounds)
                if not is_left or not shapes.equal(kept, node):  # for every input: ``other`` broadcasts nothing
                    continue
                if is_zero and kept not in updated:  # a sum is a copy
                    log.rewrote(node, f"{other.name} is always zero")
                    node.replace_all_uses_with(kept, propagate_meta=False)
                    graph_module.graph.erase_node(node)
                    break
                if not is_zero and not _is_updated(other, storages()):
                    log.rewrote(other, "its input is always zero: only its bias is left")
                    node.replace_input_with(other, self._constant(graph_module, other))
                    break

    def _constant(self, graph_module: fx.GraphModule, conv_node: fx.Node) -> fx.Node:
        """Return a node that holds the conv's bias, shaped to broadcast over its output."""
        conv = called_module(conv_node)
        assert isinstance(conv, CONV_CLASSES)
        bias = conv.bias
        assert bias is not None
        owner, dot, name = str(conv_node.target).rpartition(".")
        target = free_target(graph_module, f"{owner}{dot}bias_{name}")
        made = _reshaped(bias, (-1, *[1] * len(conv.kernel_size)))
        set_attribute(graph_module, target, made)
        with graph_module.graph.inserting_before(conv_node):
            constant = graph_module.graph.get_attr(target)
        inherit(constant, conv_node, made_by=self.name)
        note_shape(constant, made)
        return constant


@keeping_exact
def _reshaped(bias: torch.Tensor, shape: tuple[int, ...]) -> nn.Parameter:
    return make_parameter(exact(bias).reshape(shape), bias, bias.requires_grad)


def _terms(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Return the (kept, dropped) pairs of inputs of a sum that dropping a zero would leave as they are."""
    if not calls(node, (*ADDITIONS, *SUBTRACTIONS)) or node.kwargs or len(node.args) != 2:
        return []
    left, right = node.args
    if not isinstance(left, fx.Node) or not isinstance(right, fx.Node) or left is right:
        return []
    pairs = [(left, right)] if node.target in SUBTRACTIONS else [(left, right), (right, left)]
    return [(kept, other) for kept, other in pairs if same_shape(kept, node)]


def _is_updated(conv_node: fx.Node, storages: frozenset[int]) -> bool:
    conv = called_module(conv_node)
    return conv is not None and updated_tensor(conv, storages) is not None


def _is_conv_of_zeros(node: fx.Node, bounds: dict[fx.Node, tuple[float, float]]) -> bool:
    conv = called_module(node)
    source = node.args[0] if node.args else None
    return (
        isinstance(conv, CONV_CLASSES)
        and type(conv) in CONV_CLASSES
        and isinstance(conv.bias, nn.Parameter)
        and not has_hooks(conv)
        and isinstance(source, fx.Node)
        and bounds.get(source) == ZERO
    )
