"""Fold a constant factor into the layers before or behind it.

conv(x) * a         ->   conv'(x),        W' = a W, b' = a b       through relu, pooling, sums (a > 0), products,
                                                                   stochastic depth
attention(x)[0] * a ->   attention'(x)[0],    the same in its last projection
norm(x) * a         ->   norm'(x),        gamma' = a gamma, beta' = a beta
(x * p) * a         ->   x * p',          p' = a p                 p: a parameter, as a layer scale is
conv(x * a)         ->   conv'(x),        W' = a W, b' = b         if every reader is such a layer
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.facts.constant_factors import constant_factor, passes_factor
from fxprune.facts.module_uses import CallSites
from fxprune.facts.updated_buffers import updated_values
from fxprune.ir.by_mode import is_by_mode
from fxprune.ir.node_targets import attribute, set_attribute
from fxprune.ir.nodes import called_module, inherit, only_user
from fxprune.ops.layer_classes import NORM_CLASSES, WEIGHTED_CLASSES
from fxprune.ops.operators import ADDITIONS, PRODUCTS, calls
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.structures.choices import scaled_source
from fxprune.structures.conv_calls import own_module
from fxprune.weights.exact import exact, keeping_exact, make_parameter
from fxprune.weights.folding import own_bias, scaled_rows, with_weights

_NORMS = (*NORM_CLASSES, nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class FoldScale(Pass):
    """Fold each constant factor into the weights of the layers that feed it or that it feeds."""

    name: ClassVar[str] = "fold-scale"
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Fold every factor that can be."""
        sites = CallSites(graph_module)
        updated = updated_values(graph_module)

        def takes_factor(node: fx.Node) -> bool:
            """Say whether the input of ``node`` can be scaled in its weights."""
            module = called_module(node)
            return isinstance(module, WEIGHTED_CLASSES) and own_module(module, WEIGHTED_CLASSES, sites) is None

        def gives_factor(node: fx.Node) -> bool:
            """Say whether the output of ``node`` can be scaled in its weights."""
            module = called_module(node)
            if isinstance(module, _NORMS):
                return module.weight is not None and own_module(module, _NORMS, sites) is None
            if isinstance(module, nn.MultiheadAttention):
                return own_module(module, (nn.MultiheadAttention,), sites) is None
            return takes_factor(node) or (node not in updated and _own_parameter(node, sites))

        for node in list(graph_module.graph.nodes):
            scaled = constant_factor(node)
            if scaled is None or scaled[1] == 0 or scaled[0] in updated:  # x * a is a copy of x
                continue
            source, factor = scaled
            producers = _producers(source, node, factor, gives_factor)
            consumers = None if producers is not None else _consumers(node, factor, takes_factor)
            layers = producers if producers is not None else consumers
            if layers is None:
                log.decline(node, f"factor {factor:.4g}: not all layers before it, nor all behind it, can take it")
                continue
            for layer in layers:
                before = attribute(graph_module, str(layer.target))
                _scale_layer(graph_module, layer, factor, with_bias=producers is not None)
                sites.replaced(before, attribute(graph_module, str(layer.target)))
                inherit(layer, layer, made_by=self.name)
            log.rewrote(node, f"factor {factor:.4g} is now in {', '.join(layer.name for layer in layers)}", layers)
            node.replace_all_uses_with(source, propagate_meta=False)
            graph_module.graph.erase_node(node)


def _own_parameter(node: fx.Node, sites: CallSites) -> bool:
    """Say whether ``node`` reads a parameter that nothing else reads."""
    owner = node.graph.owning_module
    if node.op != "get_attr" or owner is None:
        return False
    value = attribute(owner, str(node.target))
    return isinstance(value, nn.Parameter) and value.is_floating_point() and sites.reads(value) == 1


def _scale_layer(graph_module: fx.GraphModule, node: fx.Node, factor: float, with_bias: bool) -> None:
    target = str(node.target)
    if node.op == "get_attr":
        set_attribute(graph_module, target, _scaled_parameter(attribute(graph_module, target), factor))
        return
    module = graph_module.get_submodule(target)
    if isinstance(module, nn.MultiheadAttention):
        set_attribute(graph_module, target, _scaled_attention(module, factor))
    else:
        set_attribute(graph_module, target, _scaled_layer(module, factor, with_bias))


@keeping_exact
def _scaled_parameter(old: nn.Parameter, factor: float) -> nn.Parameter:
    return make_parameter(factor * exact(old), old.detach(), old.requires_grad)


@keeping_exact
def _scaled_layer(module: nn.Module, factor: float, with_bias: bool) -> nn.Module:
    bias = own_bias(module)
    if bias is not None and with_bias:
        bias = factor * bias
    weight = module.get_parameter("weight")
    rows = torch.full((len(weight),), factor, dtype=torch.float64, device=weight.device)
    return with_weights(module, scaled_rows(weight, rows), bias)


@keeping_exact
def _scaled_attention(module: nn.MultiheadAttention, factor: float) -> nn.MultiheadAttention:
    """Return a shallow copy of ``module`` with another last projection."""
    last = module.out_proj
    bias = own_bias(last)
    scaled = with_weights(last, factor * exact(last.weight), None if bias is None else factor * bias)
    duplicate = copy.copy(module)
    duplicate.__dict__ = {**vars(module), "_modules": {**module._modules, "out_proj": scaled}}
    return duplicate


def _producers(
    node: fx.Node, reader: fx.Node, factor: float, gives_factor: Callable[[fx.Node], bool]
) -> list[fx.Node] | None:
    """Return the layers whose outputs, all scaled, scale ``node`` for ``reader`` alone; None if there are none."""
    return _behind(node, factor, gives_factor) if only_user(node) is reader else None


def _behind(node: fx.Node, factor: float, gives_factor: Callable[[fx.Node], bool]) -> list[fx.Node] | None:
    """Return the layers whose outputs, all scaled, scale ``node``; None if there are none."""
    if is_by_mode(node):
        source = scaled_source(node, factor)
        return None if source is None else _behind(source, factor, gives_factor)
    if node.target is operator.getitem and isinstance(called_module(node.args[0]), nn.MultiheadAttention):
        attention = node.args[0]  # (values, attention weights): the weights must not be read, nor scaled
        is_own = isinstance(attention, fx.Node) and node.args[1] == 0 and only_user(attention) is node
        return [attention] if is_own and isinstance(attention, fx.Node) and gives_factor(attention) else None
    if isinstance(called_module(node), nn.MultiheadAttention):
        return None
    if gives_factor(node):
        return [node]
    is_sum, is_product = calls(node, ADDITIONS), calls(node, PRODUCTS)
    if (is_sum or is_product) and not node.kwargs and len(node.args) == 2:
        parts = [_producers(t, node, factor, gives_factor) if isinstance(t, fx.Node) else None for t in node.args]
        if is_product:
            return next((part for part in parts if part is not None), None)
        first, second = parts
        return None if first is None or second is None else first + second
    if passes_factor(node, factor) and isinstance(node.args[0], fx.Node):
        return _producers(node.args[0], node, factor, gives_factor)
    return None


def _consumers(node: fx.Node, factor: float, takes_factor: Callable[[fx.Node], bool]) -> list[fx.Node] | None:
    """Return the layers that are all that reads ``node``; None if anything else reads it."""
    found: list[fx.Node] = []
    for user in node.users:
        if takes_factor(user) and user.args[0] is node:
            found.append(user)
            continue
        behind = _consumers(user, factor, takes_factor) if passes_factor(user, factor) else None
        if behind is None:
            return None
        found += behind
    return found or None
