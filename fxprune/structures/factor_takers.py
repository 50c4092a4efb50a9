"""Which layers can take a constant factor on a value into their weights: its producers, or all its readers.

conv(x) * a         ->   conv'(x)              through relu, pooling, sums (a > 0), products, stochastic depth
attention(x)[0] * a ->   attention'(x)[0]      in its last projection
norm(x) * a         ->   norm'(x)
(x * p) * a         ->   x * p'                p: a parameter, as a layer scale is
conv(x * a)         ->   conv'(x)              if every reader is such a layer
"""

from __future__ import annotations

import operator
from collections.abc import Collection

from torch import fx, nn

from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.module_uses import CallSites
from fxprune.ir.by_mode import is_by_mode
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module, only_user
from fxprune.ops.layer_classes import NORM_CLASSES, WEIGHTED_CLASSES
from fxprune.ops.operators import ADDITIONS, PRODUCTS, calls
from fxprune.structures.choices import scaled_source
from fxprune.structures.conv_calls import own_module

_NORMS = (*NORM_CLASSES, nn.LayerNorm, nn.GroupNorm)


class FactorTakers:
    """The layers and parameters of a graph whose weights may be scaled; of a version with these ``sites``.

    Args:
        sites: how often modules and parameters are used.
        updated: values that forward may write to, which are left alone.
    """

    def __init__(self, sites: CallSites, updated: Collection[fx.Node]) -> None:
        self._sites = sites
        self._updated = updated

    def producers(self, node: fx.Node, reader: fx.Node, factor: float) -> list[fx.Node] | None:
        """Return what, all scaled, scales ``node`` by ``factor`` for ``reader`` alone; None if there is none."""
        return self._behind(node, factor) if only_user(node) is reader else None

    def consumers(self, node: fx.Node, factor: float) -> list[fx.Node] | None:
        """Return the layers that are all that reads ``node``; None if anything else reads it."""
        found: list[fx.Node] = []
        for user in node.users:
            if self._takes_factor(user) and user.args[0] is node:
                found.append(user)
                continue
            behind = self.consumers(user, factor) if passes_factor(user, factor) else None
            if behind is None:
                return None
            found += behind
        return found or None

    def _behind(self, node: fx.Node, factor: float) -> list[fx.Node] | None:
        """Return the layers whose outputs, all scaled, scale ``node``; None if there are none."""
        if is_by_mode(node):
            source = scaled_source(node, factor)
            return None if source is None else self._behind(source, factor)
        if node.target is operator.getitem and isinstance(called_module(node.args[0]), nn.MultiheadAttention):
            attention = node.args[0]  # (values, attention weights): the weights must not be read, nor scaled
            is_own = isinstance(attention, fx.Node) and node.args[1] == 0 and only_user(attention) is node
            return (
                [attention] if is_own and isinstance(attention, fx.Node) and self._gives_factor(attention) else None
            )
        if isinstance(called_module(node), nn.MultiheadAttention):
            return None
        if self._gives_factor(node):
            return [node]
        is_sum, is_product = calls(node, ADDITIONS), calls(node, PRODUCTS)
        if (is_sum or is_product) and not node.kwargs and len(node.args) == 2:
            parts = [self.producers(t, node, factor) if isinstance(t, fx.Node) else None for t in node.args]
            if is_product:
                return next((part for part in parts if part is not None), None)
            first, second = parts
            return None if first is None or second is None else first + second
        if passes_factor(node, factor) and isinstance(node.args[0], fx.Node):
            return self.producers(node.args[0], node, factor)
        return None

    def _takes_factor(self, node: fx.Node) -> bool:
        """Say whether the input of ``node`` can be scaled in its weights."""
        module = called_module(node)
        return isinstance(module, WEIGHTED_CLASSES) and own_module(module, WEIGHTED_CLASSES, self._sites) is None

    def _gives_factor(self, node: fx.Node) -> bool:
        """Say whether the output of ``node`` can be scaled in its weights."""
        module = called_module(node)
        if isinstance(module, _NORMS):
            return module.weight is not None and own_module(module, _NORMS, self._sites) is None
        if isinstance(module, nn.MultiheadAttention):
            return own_module(module, (nn.MultiheadAttention,), self._sites) is None
        return self._takes_factor(node) or (node not in self._updated and self._is_own_parameter(node))

    def _is_own_parameter(self, node: fx.Node) -> bool:
        """Say whether ``node`` reads a parameter that nothing else reads."""
        owner = node.graph.owning_module
        if node.op != "get_attr" or owner is None:
            return False
        value = attribute(owner, str(node.target))
        return isinstance(value, nn.Parameter) and value.is_floating_point() and self._sites.reads(value) == 1
