"""Which sums and ReLUs of an emitted source overwrite an input, as one would write them by hand.

Graphs are functional, whatever the traced model was: passes rely on it. Source needs no new memory for a sum or a
ReLU where nothing else reads what it is made of, and what made that does not need it for its gradient.

    y = conv(x); y = y + x; y = relu(y)   ->   y = conv(x); y += x; y = relu(y, inplace=True)
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.emission.layer_spec import LayerSpec
from fxprune.facts.convs import NORM_CLASSES, is_conv
from fxprune.facts.shapes import same_shape
from fxprune.graph import called_module, only_user

SUMS = (operator.add, torch.add)
# Beside convs, these return a new tensor, which they do not keep for backward.
_LAYERS = (*NORM_CLASSES, nn.Linear)
_FUNCTIONS = {*SUMS, functional.linear, functional.batch_norm}


def overwritten(graph: fx.Graph) -> dict[fx.Node, fx.Node]:
    """Return the sums and the ReLUs, calls of layers and functions, that may work in place, and what they overwrite.

    That is new memory which nothing else reads. A layer at several sites overwrites its input at all of them or at
    none. Where the grad mode changes, none is found: what is overwritten without gradient would keep its own.
    """
    if any(node.target is torch._C._set_grad_enabled for node in graph.nodes):
        return {}
    found = {node: read for node in graph.nodes if (read := _may_overwrite(node)) is not None}
    kept = {called_module(node) for node in graph.nodes if node not in found} - {None}
    return {node: read for node, read in found.items() if called_module(node) not in kept}


def with_relus_in_place(
    layers: Mapping[str, LayerSpec], overwritten: Mapping[fx.Node, fx.Node]
) -> dict[str, LayerSpec]:
    """Return how to build ``layers``, given by path, when those that are ``overwritten``'s nodes work in place."""
    chosen = {str(node.target) for node in overwritten if node.op == "call_module"}
    return {
        path: replace(spec, arguments={**spec.arguments, "inplace": True}) if path in chosen else spec
        for path, spec in layers.items()
    }


def _may_overwrite(node: fx.Node) -> fx.Node | None:
    """Return the input that ``node`` may overwrite; None if it may not, or is neither a sum nor a ReLU."""
    reads = [read for read in node.args if isinstance(read, fx.Node)]
    if node.op == "call_function" and node.target in SUMS and len(node.args) == 2 and not node.kwargs:
        return next((read for read in reads if same_shape(read, node) and _is_spare(read)), None)
    is_layer = type(called_module(node)) is nn.ReLU
    is_call = node.op == "call_function" and node.target is functional.relu and set(node.kwargs) <= {"inplace"}
    may = (is_layer or is_call) and len(node.args) == len(reads) == 1 and _is_spare(reads[0])
    return reads[0] if may else None


def _is_spare(read: fx.Node) -> bool:
    """Say whether ``read`` is new memory that one node reads, once."""
    is_function = read.op == "call_function" and read.target in _FUNCTIONS and "out" not in read.kwargs
    is_new = is_function or is_conv(read) or isinstance(called_module(read), _LAYERS)
    return is_new and only_user(read) is not None
