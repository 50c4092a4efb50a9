"""One layer fitted anew to what it computed before, on what it reads now.

y = W x + b  of the unpruned graph,  y' = W' x' + b'  of the pruned one   ->   W' + D, b' + d,  least in E |y - y'|^2
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import fx, nn

from fxprune.facts.input_statistics import Geometry
from fxprune.facts.module_uses import CallSites
from fxprune.facts.own_layers import own_module
from fxprune.facts.shapes import shape
from fxprune.ir.nodes import called_module, only_user
from fxprune.ops.call import Call
from fxprune.ops.layer_classes import CONV_CLASSES, NORM_CLASSES, TRANSPOSED_CLASSES
from fxprune.ops.op import WEIGHTED
from fxprune.rewriting.rewriter import Rewriter
from fxprune.weights.exact import exact, make_parameter
from fxprune.weights.folding import norm_obstacle
from fxprune.weights.least_squares import Fit
from fxprune.weights.slicing import with_tensors

_PART = 1 << 26
LAYERS = (*CONV_CLASSES, *TRANSPOSED_CLASSES, nn.Linear)


class Reading(NamedTuple):
    """A layer that can be fitted: its call, what it reads, and how."""

    node: fx.Node
    source: fx.Node
    layer: nn.Module
    geometry: Geometry


def reading(node: fx.Node, sites: CallSites) -> Reading | str | None:
    """Return ``node`` as what can be fitted, or why it cannot be; None if it has no weights of these kinds."""
    call = Call(node)
    if call.kind not in WEIGHTED:
        return None
    if call.module is None:
        return "its weight is not a layer's: it is read by the graph"
    obstacle = own_module(call.module, LAYERS, sites)
    if obstacle is not None:
        return obstacle
    if call.input is None:
        return "its input is not a graph value"
    if len(node.args) + len(node.kwargs) > 1:
        return "it is called with more than its input, as an output_size"
    return Reading(node, call.input, call.module, Geometry(call, call.module.weight))


def at_once(one: Reading, x: torch.Tensor, y: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what is read and what is wanted in parts whose patches take little memory."""
    columns, rows = one.geometry.groups * one.geometry.columns, one.geometry.groups * one.geometry.rows
    step = max(1, int(_PART * len(y) * rows / max(1, 8 * columns * y.numel())))
    yield from zip(torch.split(x, step), torch.split(y, step), strict=True)


def missed(
    one: Reading, x: torch.Tensor, y: torch.Tensor, every: int = 1
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the patches of ``x``, what is missed of ``y``, and ``y``, as rows; (groups, places, ...), float64.

    Of so many places one, by ``every``.
    """
    geometry = one.geometry
    patches, wanted = (rows[:, ::every].double() for rows in (geometry.patches(x), geometry.rows_of(y)))
    found = patches @ geometry.matrix(exact(one.layer.weight)).transpose(1, 2)  # type: ignore[arg-type]
    bias = one.layer.bias
    if bias is not None:
        found = found + exact(bias).view(geometry.groups, 1, -1)  # type: ignore[arg-type]
    return patches, wanted - found, wanted


def put(one: Reading, fit: Fit, rewriter: Rewriter, sites: CallSites) -> None:
    """Have the layer compute what was fitted. A mean goes into its bias, or into that of a norm right behind it."""
    layer, geometry = one.layer, one.geometry
    old: nn.Parameter = layer.weight  # type: ignore[assignment]
    weight = make_parameter(exact(old) + geometry.weight(fit.weight), old, old.requires_grad)
    shift = fit.bias.flatten()
    tensors: dict[str, torch.Tensor] = {"weight": weight}
    bias = layer._parameters["bias"]
    if bias is not None:
        tensors["bias"] = make_parameter(exact(bias) + shift, bias, bias.requires_grad)
    elif not _shift_norm(one, shift, rewriter, sites) and bool(shift.any()):
        tensors["bias"] = make_parameter(shift, old.detach()[:0].flatten(), old.requires_grad)
    rewriter.set_layer(one.node, with_tensors(layer, tensors))


def _shift_norm(one: Reading, shift: torch.Tensor, rewriter: Rewriter, sites: CallSites) -> bool:
    """Have a batch norm that alone reads the layer take ``shift`` more off; say whether there is one that can.

    Its mean stays that of what it reads: training goes on from there.
    """
    behind = only_user(one.node)
    norm = called_module(behind)
    if len(shape(one.node) or ()) != len(one.geometry.kernel) + 2:
        return False  # the norm's channels are not the layer's, as those of tokens
    if behind is None or norm is None or own_module(norm, NORM_CLASSES, sites) is not None:
        return False
    if norm_obstacle(norm, model_is_training=False) is not None:
        return False
    mean: torch.Tensor = norm.running_mean  # type: ignore[assignment]
    rewriter.set_layer(behind, with_tensors(norm, {"running_mean": (exact(mean) - shift).to(mean)}))
    return True


def told(fit: Fit, images: int, what: str) -> str:
    """Return what was fitted, in words, with how far it is off ``what`` it was fitted to."""
    if fit.total <= 0:
        return f"refitted on {images:,} images"
    before, after = (math.sqrt(max(one, 0.0) / fit.total) for one in (fit.before, fit.after))
    return f"refitted on {images:,} images: {after:.1%} off {what}, {before:.1%} before (RMS)"
