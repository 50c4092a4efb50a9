"""Which ReLUs of an emitted source overwrite their input, as one would write them by hand.

Graphs are functional, whatever the traced model was: passes rely on it. Source needs no memory for both sides of a
ReLU where nothing else reads its input, and what makes that input does not need it for its gradient. Sums are left
as they are: under autocast, y += x rounds to the dtype of y, and y + x to the wider one.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import fx, nn
from torch.nn import functional

from fxprune.emission.layer_spec import LayerSpec
from fxprune.facts.convs import NORM_CLASSES, is_conv
from fxprune.graph import called_module, only_user

# Beside convs, these return a new tensor, which they do not keep for backward.
_LAYERS = (*NORM_CLASSES, nn.Linear)
_FUNCTIONS = {operator.add, torch.add, functional.linear, functional.batch_norm}


def relus_in_place(graph: fx.Graph) -> set[fx.Node]:
    """Return the calls of ReLUs, layers and functions, whose input is new memory that nothing else reads.

    A layer at several sites overwrites its input at all of them or at none. Where the grad mode changes, none is
    found: what a ReLU overwrites without gradient would keep its own.
    """
    if any(node.target is torch._C._set_grad_enabled for node in graph.nodes):
        return set()
    found = {node for node in graph.nodes if _may_overwrite(node)}
    kept = {called_module(node) for node in graph.nodes if node not in found} - {None}
    return {node for node in found if called_module(node) not in kept}


def with_relus_in_place(layers: Mapping[str, LayerSpec], nodes: Collection[fx.Node]) -> dict[str, LayerSpec]:
    """Return how to build ``layers``, given by path, when those that ``nodes`` call overwrite their input."""
    chosen = {str(node.target) for node in nodes if node.op == "call_module"}
    return {
        path: replace(spec, arguments={**spec.arguments, "inplace": True}) if path in chosen else spec
        for path, spec in layers.items()
    }


def _may_overwrite(node: fx.Node) -> bool:
    is_layer = type(called_module(node)) is nn.ReLU
    is_call = node.op == "call_function" and node.target is functional.relu and set(node.kwargs) <= {"inplace"}
    if not (is_layer or is_call) or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
        return False
    source = node.args[0]
    is_function = source.op == "call_function" and source.target in _FUNCTIONS and "out" not in source.kwargs
    is_new = is_function or is_conv(source) or isinstance(called_module(source), _LAYERS)
    return is_new and only_user(source) is node
