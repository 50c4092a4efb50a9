"""Fold each batch norm into the conv or linear layer in front of it.

norm(W x + b)   ->   (g W) x + g (b - mean) + beta,    g = gamma / sqrt(var + eps)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.module_uses import CallSites
from fxprune.ir.nodes import called_module, input_at, only_user, place
from fxprune.ops.layer_classes import CONV_CLASSES, NORM_CLASSES, WEIGHTED_CLASSES, Conv
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import LAYERS, RulePass
from fxprune.structures.conv_calls import own_module
from fxprune.structures.conv_sites import is_batched
from fxprune.weights.exact import keeping_exact
from fxprune.weights.folding import norm_as_factor, norm_obstacle, own_bias, scaled_rows, with_weights


@dataclass(frozen=True)
class FoldBatchNorm(RulePass):
    """Fold each batch norm into the conv or linear layer that feeds it."""

    name: ClassVar[str] = "fold-batch-norm"
    after: ClassVar[tuple[str, ...]] = (
        "freeze-weights",
        "fuse-resconv",
    )  # what follows a ResConv is no norm of its conv
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = LAYERS

    def check(self, node: fx.Node, facts: Facts) -> bool | str | None:
        """Find a norm, or what is in the way of folding it; no other reads the layer in front of it."""
        norm = called_module(node)
        return _obstacle(node, norm, facts) or True if isinstance(norm, NORM_CLASSES) else None

    def rewrite_at(self, node: fx.Node, found: bool, rewriter: Rewriter) -> None:
        """Put a layer that computes both in the place of the one in front, and take the norm out."""
        source = input_at(node)
        layer, norm = called_module(source), called_module(node)
        assert isinstance(layer, WEIGHTED_CLASSES)
        assert norm is not None
        rewriter.log.rewrote(node, f"is folded into {place(source)}")
        rewriter.set_layer(source, fold(layer, norm), node)
        rewriter.replace(node, source)

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Fold every norm that can be."""
        super().rewrite(graph_module, log)
        if log.rewritten and graph_module.training:
            log.warn("the graph is in train mode; norms were folded with their running statistics")


@keeping_exact
def fold(layer: Conv | nn.Linear, norm: nn.Module) -> Conv | nn.Linear:
    """Return the conv or linear layer that computes what ``norm`` makes of the output of ``layer`` in eval mode."""
    factor, bias = norm_as_factor(own_bias(layer), norm)
    return with_weights(layer, scaled_rows(layer.weight, factor), bias)


def _obstacle(norm_node: fx.Node, norm: nn.Module, facts: Facts) -> str | None:
    node = norm_node.args[0] if norm_node.args else None
    layer = called_module(node)
    if not isinstance(node, fx.Node) or not isinstance(layer, WEIGHTED_CLASSES):
        return "no conv or linear layer directly in front of it"
    if only_user(node) is not norm_node:
        return f"the output of {place(node)} is read by others too"
    if isinstance(layer, CONV_CLASSES) and not is_batched(node, layer, facts(EqualShapes)):
        return f"the output of {place(node)} may be unbatched: its first axis is not the channels' to this norm then"
    if isinstance(layer, nn.Linear) and facts(EqualShapes).rank(node) != 2:
        return "it may not normalise the linear layer's features: what that reads may have other than two axes"
    obstacle = own_module(norm, NORM_CLASSES, facts(CallSites)) or norm_obstacle(norm, facts.graph_module.training)
    return obstacle or own_module(layer, WEIGHTED_CLASSES, facts(CallSites))
