"""Fold each batch norm into the conv or linear layer in front of it.

norm(W x + b)   ->   (g W) x + g (b - mean) + beta,    g = gamma / sqrt(var + eps)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.module_uses import CallSites
from fxprune.ir.node_targets import set_attribute
from fxprune.ir.nodes import called_module, inherit, only_user, place
from fxprune.ops.layer_classes import CONV_CLASSES, NORM_CLASSES, WEIGHTED_CLASSES, Conv
from fxprune.rewriting.contract import Contract, Log, Pass
from fxprune.structures.conv_calls import own_module
from fxprune.structures.conv_sites import is_batched
from fxprune.weights.exact import keeping_exact
from fxprune.weights.folding import norm_as_factor, norm_obstacle, own_bias, scaled_rows, with_weights


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold each batch norm into the conv or linear layer that feeds it."""

    name: ClassVar[str] = "fold-batch-norm"
    after: ClassVar[tuple[str, ...]] = (
        "freeze-weights",
        "fuse-resconv",
    )  # what follows a ResConv is no norm of its conv
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Fold every norm that can be."""
        sites, shapes = CallSites(graph_module), EqualShapes(graph_module)
        for norm_node in list(graph_module.graph.nodes):
            norm = called_module(norm_node)
            if not isinstance(norm, NORM_CLASSES):
                continue
            obstacle = _obstacle(norm_node, norm, sites, shapes, graph_module.training)
            if obstacle is not None:
                log.decline(norm_node, obstacle)
                continue
            node = norm_node.args[0]
            layer = called_module(node)
            assert isinstance(layer, WEIGHTED_CLASSES)
            log.rewrote(norm_node, f"is folded into {place(node)}")
            folded = fold(layer, norm)
            set_attribute(graph_module, str(node.target), folded)
            sites.replaced(layer, folded)
            inherit(node, node, norm_node, made_by=self.name)
            norm_node.replace_all_uses_with(node, propagate_meta=False)
            graph_module.graph.erase_node(norm_node)
        if log.rewritten and graph_module.training:
            log.warn("the graph is in train mode; norms were folded with their running statistics")


@keeping_exact
def fold(layer: Conv | nn.Linear, norm: nn.Module) -> Conv | nn.Linear:
    """Return the conv or linear layer that computes what ``norm`` makes of the output of ``layer`` in eval mode."""
    factor, bias = norm_as_factor(own_bias(layer), norm)
    return with_weights(layer, scaled_rows(layer.weight, factor), bias)


def _obstacle(
    norm_node: fx.Node, norm: nn.Module, sites: CallSites, shapes: EqualShapes, training: bool
) -> str | None:
    node = norm_node.args[0] if norm_node.args else None
    layer = called_module(node)
    if not isinstance(node, fx.Node) or not isinstance(layer, WEIGHTED_CLASSES):
        return "no conv or linear layer directly in front of it"
    if only_user(node) is not norm_node:
        return f"the output of {place(node)} is read by others too"
    if isinstance(layer, CONV_CLASSES) and not is_batched(node, layer, shapes):
        return f"the output of {place(node)} may be unbatched: its first axis is not the channels' to this norm then"
    if isinstance(layer, nn.Linear) and shapes.rank(node) != 2:
        return "it may not normalise the linear layer's features: what that reads may have other than two axes"
    obstacle = own_module(norm, NORM_CLASSES, sites) or norm_obstacle(norm, training)
    return obstacle or own_module(layer, WEIGHTED_CLASSES, sites)
