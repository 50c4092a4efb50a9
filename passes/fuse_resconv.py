"""Turn each ResConv into one plain conv.

    s * norm(conv(x)) + a * x   ->   conv'(x),    W' = s g W + a D,   b' = s (g (b - mean) + beta)

with g = gamma / sqrt(var + eps) and D the Dirac kernel; exact in eval mode, at the borders too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.errors import FxpruneValueError
from fxprune.facts.module_uses import CallSites
from fxprune.gates.resconv import ResConv
from fxprune.ir.module_tree import has_hooks
from fxprune.ir.nodes import called_module
from fxprune.ops.layer_classes import CONV_CLASSES, Conv
from fxprune.rewriting.contract import Contract, Log
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import LAYERS, RulePass
from fxprune.structures.conv_sites import dirac_tap
from fxprune.weights.exact import exact, has_exact, in_float64, keeping_exact
from fxprune.weights.folding import dirac_kernel, norm_as_factor, norm_obstacle, own_bias, scaled_rows, with_weights


@dataclass(frozen=True)
class FuseResConv(RulePass):
    """Fuse the scale, the shortcut and the norm of each ResConv into its conv's weights."""

    name: ClassVar[str] = "fuse-resconv"
    after: ClassVar[tuple[str, ...]] = (
        "remove-layers",
        "remove-resconvs",
        "freeze-weights",
    )  # a computed weight cannot be fused into
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = LAYERS

    def check(self, node: fx.Node, facts: Facts) -> ResConv | str | None:
        """Find a ResConv, or what is in the way of fusing it."""
        resconv = called_module(node)
        if not isinstance(resconv, ResConv):
            return None
        return _obstacle(resconv, facts(CallSites), facts.graph_module.training) or resconv

    def rewrite_at(self, node: fx.Node, found: ResConv, rewriter: Rewriter) -> None:
        """Put a plain conv in its place."""
        scale, shortcut = found.coefficients()
        rewriter.log.rewrote(node, f"scale {scale:.4g} and shortcut {shortcut:.4g} are now in the weights")
        rewriter.set_layer(node, fuse(found, scale, shortcut))

    def rewrite(self, graph_module: fx.GraphModule, log: Log) -> None:
        """Fuse every ResConv that can be."""
        super().rewrite(graph_module, log)
        if log.rewritten and graph_module.training:
            log.warn("the graph is in train mode; norms were folded with their running statistics")


def _obstacle(resconv: ResConv, sites: CallSites, training: bool) -> str | None:
    if sites.calls(resconv) != 1:
        return f"it is shared by {sites.calls(resconv)} call sites"
    updated = sites.updated_tensor(resconv)
    if updated is not None:
        return f"its {updated} is updated in forward"
    if type(resconv.conv) not in CONV_CLASSES or has_hooks(resconv.conv):
        return "its conv computes its weight; apply freeze-weights first"
    norm = _norm(resconv)
    return None if norm is None else norm_obstacle(norm, training)


def _norm(resconv: ResConv) -> nn.Module | None:
    """Return the norm, if there is one still: something may have put an Identity in its place."""
    return None if isinstance(resconv.norm, nn.Identity) else resconv.norm


@keeping_exact
@torch.no_grad()
def fuse(resconv: ResConv, scale: float, shortcut: float) -> Conv:
    """Return the plain conv that computes what ``resconv``, with these coefficients, computes in eval mode."""
    conv = resconv.conv
    if has_exact(resconv):  # the scale may depend on weights that were rounded
        scale, shortcut = in_float64(resconv).coefficients()
    bias = own_bias(conv)
    factor = torch.ones(conv.out_channels, dtype=torch.float64, device=conv.weight.device)
    norm = _norm(resconv)
    if norm is not None:
        factor, bias = norm_as_factor(bias, norm)
    bias = None if bias is None else scale * bias
    if shortcut == 0:
        return with_weights(conv, scaled_rows(conv.weight, scale * factor), bias)
    tap = dirac_tap(conv)
    if isinstance(tap, str):
        raise FxpruneValueError(f"the conv has no identity kernel: {tap}")
    rows = (scale * factor).reshape(-1, *[1] * (conv.weight.dim() - 1))
    return with_weights(conv, exact(conv.weight) * rows + shortcut * dirac_kernel(conv, tap), bias)
