"""Which layers can take a constant factor on a value into their weights: its producers, or all its readers.

conv(x) * a         ->   conv'(x)              through relu, pooling, sums (a > 0), products, stochastic depth
attention(x)[0] * a ->   attention'(x)[0]      in its last projection
norm(x) * a         ->   norm'(x)
(x * p) * a         ->   x * p'                p: a parameter, as a layer scale is
conv(x * a)         ->   conv'(x)              if every reader is such a layer
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import fx, nn

from fxprune.facts.constant_factors import passes_factor
from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.ir.by_mode import is_by_mode
from fxprune.ir.node_targets import attribute
from fxprune.ir.nodes import called_module, only_user
from fxprune.ops.call import Call, is_a, operands
from fxprune.ops.layer_classes import NORM_CLASSES, WEIGHTED_CLASSES
from fxprune.structures.choices import scaled_source

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
            if self._takes_factor(user) and Call(user).input is node:
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
        call = Call(node)
        source = call.input
        if source is not None and is_a(source, "multihead_attention"):
            # (values, attention weights): the weights must not be read, nor scaled
            is_own = is_a(node, "getitem") and call.argument("index") == 0 and only_user(source) is node
            return [source] if is_own and self._gives_factor(source) else None
        if is_a(node, "multihead_attention"):
            return None
        if self._gives_factor(node):
            return [node]
        both = operands(node, "add", "mul")
        if both is not None:
            return self._behind_both(node, both, factor)
        return self.producers(source, node, factor) if source is not None and passes_factor(node, factor) else None

    def _behind_both(self, node: fx.Node, both: tuple[Any, Any], factor: float) -> list[fx.Node] | None:
        """Return what scales a sum, by both of its operands, or a product, by one of them."""
        first, second = (self.producers(one, node, factor) if isinstance(one, fx.Node) else None for one in both)
        if is_a(node, "mul"):
            return second if first is None else first
        return None if first is None or second is None else first + second

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
