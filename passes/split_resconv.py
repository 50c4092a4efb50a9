"""Turn each ResConv without a shortcut back into its conv and its norm, so that what comes out can be trained on.

    s * norm(conv(x)) + 0 * x   ->   norm'(conv(x)),    gamma' = s gamma, beta' = s beta

FuseResConv makes one conv of those that it leaves: a shortcut fits into no norm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx, nn

from fxprune.facts.module_uses import CallSites
from fxprune.gates.resconv import ResConv
from fxprune.ir.node_targets import free_target
from fxprune.ir.nodes import ORIGIN, PATH, called_module, is_there, origins
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.rewriting.contract import Contract
from fxprune.rewriting.rewriter import Facts, Rewriter
from fxprune.rewriting.rules import LAYERS, RulePass
from fxprune.weights.exact import has_exact, in_float64, keeping_exact
from fxprune.weights.scaling import scaled_norm


@dataclass(frozen=True)
class SplitResConv(RulePass):
    """Put a conv and its norm in the place of each ResConv whose shortcut is 0, with the scale in the norm."""

    name: ClassVar[str] = "split-resconv"
    after: ClassVar[tuple[str, ...]] = ("remove-layers", "remove-resconvs", "freeze-weights")
    contract: ClassVar[Contract] = Contract.VALUES
    changes_shapes: ClassVar[bool] = False
    ops: ClassVar[tuple[str, ...]] = LAYERS

    def check(self, node: fx.Node, facts: Facts) -> ResConv | str | None:
        """Find a ResConv with a norm, or why that cannot stand alone."""
        resconv = called_module(node)
        if not isinstance(resconv, ResConv) or resconv.norm is None or isinstance(resconv.norm, nn.Identity):
            return None
        return _obstacle(resconv, facts(CallSites)) or resconv

    def rewrite_at(self, node: fx.Node, found: ResConv, rewriter: Rewriter) -> None:
        """Call the conv where the ResConv was called, and behind it the norm, under the names that they had."""
        scale = found.coefficients()[0]
        target = free_target(rewriter.graph_module, _norm_target(node, rewriter.graph_module))
        told = f" with scale {scale:.4g} in it" if scale != 1 else ""
        rewriter.log.rewrote(node, f"is a conv and its norm again, {target}{told}")
        rewriter.put(target, _norm_of(found))
        *of_conv, of_norm = origins(node)
        readers = list(node.users)
        new = rewriter.insert("call_module", target, (node,), before=node.next, of=(node,))
        rewriter.set_layer(node, found.conv)
        if of_conv:
            node.meta[ORIGIN], new.meta[ORIGIN] = tuple(of_conv), (of_norm,)
        rewriter.replace(node, new, readers)


def _obstacle(resconv: ResConv, sites: CallSites) -> str | None:
    scale, shortcut = resconv.coefficients()
    if shortcut != 0:
        return f"its shortcut is {shortcut:.4g}, which fits into no norm: fuse-resconv makes one conv of it"
    if sites.calls(resconv) != 1:
        return f"it is shared by {sites.calls(resconv)} call sites"
    updated = sites.updated_tensor(resconv)
    if updated is not None:
        return f"its {updated} is updated in forward"
    if scale != 1 and type(resconv.norm) not in NORM_CLASSES:
        return f"its norm is a {type(resconv.norm).__name__}, which does not take its scale"
    return None


@keeping_exact
@torch.no_grad()
def _norm_of(resconv: ResConv) -> nn.Module:
    """Return the norm that computes ``s * norm(y)``; the very one that there is, if s is 1."""
    source = in_float64(resconv) if has_exact(resconv) else resconv  # s may depend on weights that were rounded
    scale, norm = source.coefficients()[0], resconv.norm
    assert norm is not None
    return norm if scale == 1 else scaled_norm(norm, scale)


def _norm_target(node: fx.Node, graph_module: fx.GraphModule) -> str:
    """Return where the norm stood, which is the path that the node has of it; or else a name beside its conv."""
    path = str(node.meta.get(PATH, ""))
    return path if path and not is_there(graph_module, path) else f"{node.target}_norm"
