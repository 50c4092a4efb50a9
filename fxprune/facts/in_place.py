"""Which ReLUs and sums may overwrite one of their inputs, as one would write them by hand.

Graphs are functional, whatever the traced model was: passes rely on it. A network that runs needs no memory for both
sides of a ReLU or a sum where nothing else reads the input, and what makes that does not need it for its gradient.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.facts.convs import NORM_CLASSES, is_conv
from fxprune.facts.shapes import same_shape, shape
from fxprune.graph import called_module, only_user

_RELU_LAYERS = (nn.ReLU, nn.ReLU6)
_RELU_FUNCTIONS = {functional.relu, functional.relu6}
_SUMS = {operator.add, torch.add}
# Beside convs, these return a new tensor, which they do not keep for backward.
_NEW_LAYERS = (*NORM_CLASSES, nn.Linear)
_NEW_FUNCTIONS = {functional.linear, functional.batch_norm, *_SUMS}
# These compute in the dtype of their input, under autocast too.
_PASSING_LAYERS = (*NORM_CLASSES, *_RELU_LAYERS, nn.MaxPool2d)
_PASSING_FUNCTIONS = {
    *_RELU_FUNCTIONS,
    functional.batch_norm,
    functional.max_pool2d,
    functional.pad,
    operator.getitem,
}


def overwritten(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Return the calls of ReLUs, layers and functions, and the sums that may overwrite an input, with that input.

    The input is new memory that nothing else reads. A layer at several sites overwrites its input at all of them or
    at none. A sum has the shape and the dtype of what it overwrites, under autocast too: y += x rounds to the dtype
    of y, where y + x has the wider one. Where the grad mode changes, none is found: what is overwritten without
    gradient would keep its own.
    """
    if any(node.target is torch._C._set_grad_enabled for node in graph.nodes):
        return {}
    found = {}
    convs_dtype: set[fx.Node] = set()  # under autocast as well
    for node in graph.nodes:
        if _has_convs_dtype(node, convs_dtype):
            convs_dtype.add(node)
        source = _source(node, convs_dtype)
        if source is not None:
            found[node] = source
    kept = {called_module(node) for node in graph.nodes if node not in found} - {None}
    return {node: source for node, source in found.items() if called_module(node) not in kept}


def is_sum(node: fx.Node) -> bool:
    """Say whether ``node`` adds two values and does nothing else."""
    return node.op == "call_function" and node.target in _SUMS and len(node.args) == 2 and not node.kwargs


def _source(node: fx.Node, convs_dtype: set[fx.Node]) -> fx.Node | None:
    operands = [one for one in node.args if isinstance(one, fx.Node)]
    if _is_relu(node):
        return next(filter(_is_new_and_read_once, operands), None)
    # An axis of size 1 may be one that grows with other inputs, or one along which a sum spreads.
    if not is_sum(node) or len(operands) != 2 or 1 in (shape(node) or (1,)) or not same_shape(*operands):
        return None
    if not convs_dtype.issuperset(operands):
        return None
    return next((one for one in operands if _is_new_and_read_once(one) and same_shape(one, node)), None)


def _is_relu(node: fx.Node) -> bool:
    is_layer = type(called_module(node)) in _RELU_LAYERS
    is_call = _calls(node, _RELU_FUNCTIONS) and set(node.kwargs) <= {"inplace"}
    return (is_layer or is_call) and len(node.args) == 1


def _is_new_and_read_once(node: fx.Node) -> bool:
    is_function = _calls(node, _NEW_FUNCTIONS) and "out" not in node.kwargs
    is_new = is_function or is_conv(node) or isinstance(called_module(node), _NEW_LAYERS)
    return is_new and only_user(node) is not None


def _has_convs_dtype(node: fx.Node, known: set[fx.Node]) -> bool:
    """Say whether ``node`` has the dtype that convs and linear layers compute in."""
    if is_conv(node) or type(called_module(node)) is nn.Linear or _calls(node, {functional.linear}):
        return True
    if is_sum(node):
        return known.issuperset(node.args)
    if isinstance(called_module(node), _PASSING_LAYERS) or _calls(node, _PASSING_FUNCTIONS):
        return node.args[:1] != () and node.args[0] in known
    return False


def _calls(node: fx.Node, functions: Collection[Any]) -> bool:
    return node.op == "call_function" and node.target in functions
