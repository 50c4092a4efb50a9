"""Which batch norms go into the layer in front of them, and for every other one the reason why not.

norm(conv(x))   one reader, weights of its own, running statistics   ->   conv(x), with a bias
"""

from __future__ import annotations

from torch import fx, nn

from fxprune.facts.constants import Constants
from fxprune.facts.conv_calls import conv_call
from fxprune.facts.equal_shapes import EqualShapes
from fxprune.facts.linear_calls import linear_call
from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.gates.base import ungated
from fxprune.ir.nodes import called_module, only_user, place
from fxprune.ops.call import Call
from fxprune.ops.layer_classes import CONV_CLASSES, NORM_CLASSES, WEIGHTED_CLASSES, Conv
from fxprune.weights.folding import norm_obstacle


def folding_obstacle(
    norm_node: fx.Node, sites: CallSites, shapes: EqualShapes, *, training: bool, frozen: Constants | None = None
) -> str | None:
    """Return why a batch norm cannot be folded into the layer in front of it; None if it can.

    Args:
        norm_node: calls one of NORM_CLASSES.
        sites: of its graph.
        shapes: likewise.
        training: whether that graph is in train mode, where running statistics are folded.
        frozen: of that graph, where weights that are computed, gated or read by functions will be those of plain
            layers by then.
    """
    node = norm_node.args[0] if norm_node.args else None
    layer, norm = called_module(node), called_module(norm_node)
    assert norm is not None
    if frozen is not None and isinstance(node, fx.Node):
        layer = _layer_of(node, sites, frozen)
    if not isinstance(node, fx.Node) or not isinstance(layer, WEIGHTED_CLASSES):
        return "no conv or linear layer directly in front of it"
    if only_user(node) is not norm_node:
        return f"the output of {place(node)} is read by others too"
    if isinstance(layer, CONV_CLASSES) and not is_batched(node, layer, shapes):
        return f"the output of {place(node)} may be unbatched: its first axis is not the channels' to this norm then"
    if isinstance(layer, nn.Linear) and shapes.rank(node) != 2:
        return "it may not normalise the linear layer's features: what that reads may have other than two axes"
    obstacle = own_module(norm, NORM_CLASSES, sites) or norm_obstacle(norm, training)
    if obstacle is None and layer is called_module(node):
        obstacle = own_module(layer, WEIGHTED_CLASSES, sites, frozen=frozen is not None)
    return obstacle


def _layer_of(node: fx.Node, sites: CallSites, constants: Constants) -> nn.Module | None:
    """Return the layer that is called, that a gate is for, or that freeze-weights makes of a function's call."""
    module, kind = called_module(node), Call(node).kind
    if module is not None:
        return ungated(module)
    if kind == "linear":
        layer = linear_call(node, sites)
        return None if isinstance(layer, str) else layer
    call = conv_call(node, sites, constants) if kind == "conv" else ""
    return None if isinstance(call, str) else call.module


def is_batched(node: fx.Node, conv: Conv, shapes: EqualShapes) -> bool:
    """Say whether the output of ``conv`` at ``node`` has a batch dimension before the channels, for every input."""
    return shapes.rank(node) == len(conv.kernel_size) + 2
