"""Which weights set the size of a branch's output, and could take back what shrinking its scale takes away."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.shapes import same_shape
from fxprune.ir.by_mode import chosen, is_by_mode
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.ops.layer_classes import NORM_CLASSES, WEIGHTED_CLASSES
from fxprune.ops.operators import PRODUCTS, calls

_NORMS = (*NORM_CLASSES, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
_LAYER_FUNCTIONS = (functional.linear, functional.conv1d, functional.conv2d, functional.conv3d)
# Where the functions take their weight.
_NORM_FUNCTIONS: dict[Any, int] = {functional.batch_norm: 3, functional.layer_norm: 2, functional.group_norm: 2}
_RESHAPES = (torch.reshape, torch.unsqueeze, operator.getitem, "reshape", "view", "unsqueeze")


def size_weights(exit_node: fx.Node) -> list[str]:
    """Return the targets of the parameters that scale the value of ``exit_node``, last one first.

    From the branch's end backwards through everything that passes a positive factor on: layer scales, kernels, and
    the first norm's gamma, at which the walk ends, since a normalised value has lost its size.
    """
    found: list[str] = []
    node: fx.Node | None = exit_node
    while node is not None:
        node = _step(node, found)
    return list(dict.fromkeys(found))


def _step(node: fx.Node, found: list[str]) -> fx.Node | None:
    """Note the weights of ``node`` and return the value that it scales; None where the walk ends."""
    module = called_module(node)
    if isinstance(module, WEIGHTED_CLASSES):
        found += _own_weight(node, module)
        return _input(node)
    if isinstance(module, _NORMS):
        found += _own_weight(node, module)
        return None
    if node.target in _LAYER_FUNCTIONS:
        weight = _parameter(_argument(node, 1, "weight"))
        found += weight
        return _input(node) if weight else None
    if node.op == "call_function" and node.target in _NORM_FUNCTIONS:
        found += _parameter(_argument(node, _NORM_FUNCTIONS[node.target], "weight"))
        return None
    if calls(node, PRODUCTS) and len(node.args) == 2:
        return _through_product(node, found)
    if node.target is operator.getitem and isinstance(called_module(node.args[0]), nn.MultiheadAttention):
        found.append(f"{node.args[0].target}.out_proj.weight")  # type: ignore[union-attr]
        return None
    if is_by_mode(node):
        source = chosen(node, False)
        return source if isinstance(source, fx.Node) else None
    if getattr(node.target, "__name__", "") == "stochastic_depth" or passes_factor(node, 1.0):
        return _input(node)
    return None


def _through_product(node: fx.Node, found: list[str]) -> fx.Node | None:
    """Walk on through a layer scale (a parameter), a number, or a gate that is broadcast over the value."""
    for scaled, factor in (node.args, reversed(node.args)):
        if isinstance(scaled, fx.Node) and same_shape(scaled, node):
            if not isinstance(factor, fx.Node):
                return scaled
            weight = _parameter(factor)
            if weight or not same_shape(factor, node):
                found += weight
                return scaled
    return None


def _own_weight(node: fx.Node, module: nn.Module) -> list[str]:
    return [f"{node.target}.weight"] if module._parameters.get("weight") is not None else []


def _parameter(node: Any) -> list[str]:
    """Return the target of the parameter that ``node`` is, reshaped or not; an empty list if it is none."""
    while isinstance(node, fx.Node) and calls(node, _RESHAPES):
        node = node.args[0]
    if not isinstance(node, fx.Node) or node.op != "get_attr" or node.graph.owning_module is None:
        return []
    value = attribute(node.graph.owning_module, str(node.target))
    return [str(node.target)] if isinstance(value, nn.Parameter) else []


def _argument(node: fx.Node, index: int, name: str) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name)


def _input(node: fx.Node) -> fx.Node | None:
    source = _argument(node, 0, "input")
    return source if isinstance(source, fx.Node) else None
