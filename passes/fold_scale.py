"""Fold a constant factor into the layers before or behind it.

conv(x) * a         ->   conv'(x),        W' = a W, b' = a b       through relu, pooling, sums (a > 0)
conv(x * a)         ->   conv'(x),        W' = a W, b' = b         if every reader is such a layer
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.facts.convs import CONV_CLASSES, own_module
from fxprune.facts.scales import constant_factor, passes_factor
from fxprune.folding import exact, own_bias, with_weights
from fxprune.graph import CallSites, called_module, inherit, only_user, set_submodule
from fxprune.rewriting import Contract, Log, Pass

_LAYERS = (*CONV_CLASSES, nn.Linear)


@dataclass(frozen=True)
class FoldScale(Pass):
    """Fold each constant factor into the weights of the layers that feed it or that it feeds."""

    name: ClassVar[str] = "fold-scale"
    contract: ClassVar[Contract] = Contract.VALUES

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Fold every factor that can be."""
        sites = CallSites(graph_module)

        def is_foldable(node: fx.Node) -> bool:
            module = called_module(node)
            return isinstance(module, _LAYERS) and own_module(module, _LAYERS, sites) is None

        for node in list(graph_module.graph.nodes):
            scaled = constant_factor(node)
            if scaled is None or scaled[1] == 0:
                continue
            source, factor = scaled
            producers = _producers(source, node, factor, is_foldable)
            consumers = None if producers is not None else _consumers(node, factor, is_foldable)
            layers = producers if producers is not None else consumers
            if layers is None:
                log.decline(node, f"factor {factor:.4g}: not all layers before it, nor all behind it, can take it")
                continue
            for layer in layers:
                _scale_layer(graph_module, layer, factor, with_bias=producers is not None)
                inherit(layer, layer, made_by=self.name)
            log.rewrote(node, f"factor {factor:.4g} is now in {', '.join(layer.name for layer in layers)}")
            sites = CallSites(graph_module)  # the layers are new modules now
            node.replace_all_uses_with(source, propagate_meta=False)
            graph_module.graph.erase_node(node)


def _scale_layer(graph_module: fx.GraphModule, node: fx.Node, factor: float, with_bias: bool) -> None:
    module = called_module(node)
    assert isinstance(module, _LAYERS)
    bias = own_bias(module)
    if bias is not None and with_bias:
        bias = factor * bias
    set_submodule(graph_module, str(node.target), with_weights(module, factor * exact(module.weight), bias))


def _producers(
    node: fx.Node, reader: fx.Node, factor: float, is_foldable: Callable[[fx.Node], bool]
) -> list[fx.Node] | None:
    """Return the layers whose outputs, all scaled, scale ``node`` for ``reader`` alone; None if there are none."""
    if only_user(node) is not reader:
        return None
    if is_foldable(node):
        return [node]
    if node.target in (operator.add, torch.add) and not node.kwargs and len(node.args) == 2:
        found: list[fx.Node] = []
        for term in node.args:
            part = _producers(term, node, factor, is_foldable) if isinstance(term, fx.Node) else None
            if part is None:
                return None
            found += part
        return found
    if passes_factor(node, factor) and isinstance(node.args[0], fx.Node):
        return _producers(node.args[0], node, factor, is_foldable)
    return None


def _consumers(node: fx.Node, factor: float, is_foldable: Callable[[fx.Node], bool]) -> list[fx.Node] | None:
    """Return the layers that are all that reads ``node``; None if anything else reads it."""
    found: list[fx.Node] = []
    for user in node.users:
        if is_foldable(user) and user.args[0] is node:
            found.append(user)
            continue
        behind = _consumers(user, factor, is_foldable) if passes_factor(user, factor) else None
        if behind is None:
            return None
        found += behind
    return found or None
