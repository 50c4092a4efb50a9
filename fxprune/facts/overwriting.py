"""Which ReLUs and sums may overwrite one of their inputs, as one would write them by hand.

Graphs are functional, whatever the traced model was: passes rely on it. A network that runs needs no memory for both
sides of a ReLU or a sum where nothing else reads the input, and what makes that does not need it for its gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.extents import Extent, extents_of
from fxprune.facts.shapes import same_shape
from fxprune.ir.nodes import called_module, only_user
from fxprune.ops.convs import is_conv
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.ops.operators import ADDITIONS, calls_function, is_sum

_RELU_LAYERS = (nn.ReLU, nn.ReLU6)
_RELU_FUNCTIONS = {functional.relu, functional.relu6}
# Beside convs, these return a new tensor, which they do not keep for backward.
_NEW_LAYERS = (*NORM_CLASSES, nn.Linear)
_NEW_FUNCTIONS = {functional.linear, functional.batch_norm, *ADDITIONS}


def overwritten(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Return the calls of ReLUs, layers and functions, and the sums that may overwrite an input, with that input.

    The input is new memory that nothing else reads. A layer at several sites overwrites its input at all of them or
    at none. A sum has the shape, the dtype and the layout of what it overwrites, whatever the size of the inputs, and
    under autocast too: y += x rounds to the dtype of y, where y + x has the wider one. Where the grad mode changes,
    none is found: what is overwritten without gradient would keep its own.
    """
    if any(node.target is torch._C._set_grad_enabled for node in graph.nodes):
        return {}
    extents = extents_of(graph)
    found = {node: source for node in graph.nodes if (source := _source(node, extents)) is not None}
    kept = {called_module(node) for node in graph.nodes if node not in found} - {None}
    return {node: source for node, source in found.items() if called_module(node) not in kept}


def _source(node: fx.Node, extents: Mapping[fx.Node, Extent]) -> fx.Node | None:
    operands = [one for one in node.args if isinstance(one, fx.Node)]
    if _is_relu(node):
        return next(filter(_is_new_and_read_once, operands), None)
    if not is_sum(node):
        return None
    first, second = node.args
    assert isinstance(first, fx.Node)
    assert isinstance(second, fx.Node)
    if not same_shape(first, second) or extents[first] != extents[second] or extents[first].maker is None:
        return None
    return next(filter(_is_new_and_read_once, (first, second)), None)


def _is_relu(node: fx.Node) -> bool:
    is_layer = type(called_module(node)) in _RELU_LAYERS
    is_call = calls_function(node, _RELU_FUNCTIONS) and set(node.kwargs) <= {"inplace"}
    return (is_layer or is_call) and len(node.args) == 1


def _is_new_and_read_once(node: fx.Node) -> bool:
    is_function = calls_function(node, _NEW_FUNCTIONS) and "out" not in node.kwargs
    is_new = is_function or is_conv(node) or isinstance(called_module(node), _NEW_LAYERS)
    return is_new and only_user(node) is not None
