"""How images and the weights of convs lie in memory; all else lies as the ops make it.

conv(image), channels_last      image and weight NHWC in memory, and what the conv makes of them
layer_norm(permute(y))          as the permutation left it: nobody lays that out anew
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from fxprune.costs.latency.conditions import Layout
from fxprune.gates.base import Gated, ungated
from fxprune.ir.copies import copy_module
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module
from fxprune.ir.pytrees import map_tensors
from fxprune.ops.call import Call, is_conv
from fxprune.ops.layer_classes import CONV_CLASSES, TRANSPOSED_CLASSES, WEIGHTED_CLASSES

_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}
_OF_IMAGES = ("conv", "transposed conv", "window", "adaptive pool", "resize")
_KEEPING = ("elementwise", "arithmetic", "identity", "cast", "dropout", "pad", "join", "norm")
"""The kinds whose results have the channels where their inputs have them."""


def in_layout(value: torch.Tensor, layout: Layout) -> torch.Tensor:
    """Return images, (N, C, H, W) or (N, C, D, H, W), or the weight of a conv over such, as they lie in a layout."""
    last = _LAST.get(value.dim())
    if last is None:
        return value
    return value.contiguous(memory_format=last if layout == "channels_last" else torch.contiguous_format)


def inputs_in(graph_module: fx.GraphModule, inputs: tuple[Any, ...], layout: Layout) -> tuple[Any, ...]:
    """Return the inputs of a graph, those that are images in a layout, others as they are."""
    nodes = graph_module.graph.find_nodes(op="placeholder")
    images = [_is_image(node) for node in nodes] if len(nodes) == len(inputs) else [True] * len(inputs)
    laid_out: Callable[[torch.Tensor], torch.Tensor] = lambda one: in_layout(one, layout)  # noqa: E731
    return tuple(
        map_tensors(one, laid_out) if is_image else one for one, is_image in zip(inputs, images, strict=True)
    )


def _is_image(node: fx.Node) -> bool:
    """Say whether a conv or a window over two or three axes reads this value, its channels where it has them."""
    seen, left = {node}, [node]
    while left:
        one = left.pop()
        for user in one.users:
            call, module = Call(user), called_module(user)
            if call.op is None and module is not None and _may_be_of_images(module):
                return True
            if call.kind in _OF_IMAGES and call.input is one and call.op is not None and call.op.axes != 1:
                return True
            if _is_keeping(user, call, module) and user not in seen:
                seen.add(user)
                left.append(user)
    return False


def _is_keeping(node: fx.Node, call: Call, module: nn.Module | None) -> bool:
    """Say whether a value has its channels where what it is made of has them."""
    return call.kind in _KEEPING or node.target is operator.getitem or _is_bare(module)


def _is_bare(module: nn.Module | None) -> bool:
    """Say whether it is a gate that wraps no layer: of a branch, or of channels."""
    return isinstance(module, Gated) and module.wrapped is None


def _may_be_of_images(module: nn.Module) -> bool:
    """Say whether a gate of a layer, or what could not be traced, may read images: all but linear layers."""
    layer = ungated(module)
    return isinstance(layer, CONV_CLASSES) or not (_is_bare(module) or isinstance(layer, WEIGHTED_CLASSES))


def in_layout_of(graph_module: fx.GraphModule, layout: Layout) -> fx.GraphModule:
    """Return the graph, or a copy whose weights of convs have this layout: training may have moved them."""
    if all(_lies(one, layout) for one in _weights(graph_module).values()):
        return graph_module
    found = copy_module(graph_module)
    assert isinstance(found, fx.GraphModule)
    lay_out(found, layout)
    return found


def lay_out(module: nn.Module, layout: Layout) -> None:
    """Lay the weights of convs out, in place; those beneath a graph that functions read too."""
    for weight in _weights(module).values():
        weight.data = in_layout(weight.data, layout)


def _lies(weight: torch.Tensor, layout: Layout) -> bool:
    return in_layout(weight, layout) is weight


def _weights(module: nn.Module) -> dict[int, torch.Tensor]:
    """Return the weights of convs, by identity; of a conv whose weight is computed what it is computed from."""
    layers = [one for one in module.modules() if isinstance(one, (*CONV_CLASSES, *TRANSPOSED_CLASSES))]
    found: dict[int, torch.Tensor] = {id(weight): weight for layer in layers for weight in layer.parameters()}
    for graph_module in (one for one in module.modules() if isinstance(one, fx.GraphModule)):
        for node in graph_module.graph.nodes:
            weight = Call(node).argument("weight") if is_conv(node) and node.op == "call_function" else None
            if isinstance(weight, fx.Node) and weight.op == "get_attr":
                held = attribute(graph_module, str(weight.target))
                found[id(held)] = held
    return found
