"""Fold each batch norm into the conv or linear layer in front of it.

norm(W x + b)   ->   (g W) x + g (b - mean) + beta,    g = gamma / sqrt(var + eps)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx, nn

from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.foldable_norms import folding_obstacle
from fxprune.facts.module_uses import CallSites
from fxprune.ir.nodes import called_module, input_at, place
from fxprune.ops.layer_classes import NORM_CLASSES, WEIGHTED_CLASSES, Conv
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import LAYERS, RulePass
from fxprune.weights.exact import keeping_exact
from fxprune.weights.folding import norm_as_factor, own_bias, scaled_rows, with_weights


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
        if not isinstance(called_module(node), NORM_CLASSES):
            return None
        training = facts.graph_module.training
        return folding_obstacle(node, facts(CallSites), facts(EqualShapes), training=training) or True

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
