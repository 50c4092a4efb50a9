"""The algebra of folding norms, scales and shortcuts into weights: factors in float64, weights in the layer's dtype.

A batch norm in eval mode is g * (y - mean) + beta with g = gamma / sqrt(var + eps) per channel, so

    norm(W x + b)               =  (g W) x + g (b - mean) + beta
    s * norm(W x + b) + a * x   =  (s g W + a D) x + s (g (b - mean) + beta)

with D the Dirac kernel, which has a single 1 per output channel.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.ops.layer_classes import NORM_CLASSES, Conv
from fxprune.weights.exact import exact, is_unrounded, make_parameter

_Weighted = TypeVar("_Weighted", bound=nn.Module)


def with_weights(module: _Weighted, weight: torch.Tensor, bias: torch.Tensor | None) -> _Weighted:
    """Return a shallow copy of a conv or linear layer with other weights (float64); ``module`` is not changed.

    A weight that is a Parameter already is taken as it is.
    """
    old, old_bias = module.get_parameter("weight"), module._parameters.get("bias")
    trains_bias = old.requires_grad if old_bias is None else old_bias.requires_grad
    duplicate = type(module).__new__(type(module))
    duplicate.__dict__.update(module.__dict__)
    duplicate.__dict__["_parameters"] = {
        "weight": weight
        if isinstance(weight, nn.Parameter)
        else make_parameter(weight, old.detach(), old.requires_grad),
        "bias": None if bias is None else make_parameter(bias, old.detach()[:0], trains_bias),
    }
    return duplicate


def scaled_rows(weight: torch.Tensor, factor: torch.Tensor) -> nn.Parameter:
    """Return ``weight`` times ``factor`` (float64, one number a row) as a Parameter.

    The product is worked out in the dtype of ``weight``, half precision in float32, which is one rounding more than
    in float64 and half the time.
    """
    broadcast = factor.reshape(-1, *[1] * (weight.dim() - 1))
    values = weight.detach()
    if is_unrounded():
        return make_parameter(exact(weight) * broadcast, values, weight.requires_grad)
    wide = torch.promote_types(weight.dtype, torch.float32)
    made = torch.mul(values.to(wide), broadcast.to(wide), out=torch.empty_like(values))
    return nn.Parameter(made, requires_grad=weight.requires_grad)


def own_bias(module: nn.Module) -> torch.Tensor | None:
    """Return the bias of a layer in float64, or None."""
    bias = module._parameters.get("bias")
    return None if bias is None else exact(bias)


def norm_obstacle(norm: nn.Module, model_is_training: bool) -> str | None:
    """Return why a batch norm is not a fixed affine map in eval mode, or None if it is one.

    One that took its place later is known if it is one of torch's or a FrozenBatchNorm2d, whose weights are buffers
    (torchvision's and Detectron's are alike).
    """
    if type(norm).__name__ == "FrozenBatchNorm2d":
        return None
    if not isinstance(norm, NORM_CLASSES):
        return f"its norm is a {type(norm).__name__} by now, no batch norm"
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics"
    if norm.training and not model_is_training:
        return "it is in train mode inside a model in eval mode"
    return None


def norm_as_factor(bias: torch.Tensor | None, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a batch norm behind a layer does to it (float64): the factor of each output channel, the new bias.

    ``norm`` has running statistics; ``bias`` is that of the layer.
    """
    mean, variance = exact(norm._buffers["running_mean"]), exact(norm._buffers["running_var"])  # type: ignore[arg-type]
    gamma, beta = (getattr(norm, name, None) for name in ("weight", "bias"))  # of a frozen one they are buffers
    factor = torch.rsqrt(variance + float(norm.eps))  # type: ignore[arg-type]
    if gamma is not None:
        factor = factor * exact(gamma)
    folded_bias = factor * (-mean if bias is None else bias - mean)
    return factor, folded_bias if beta is None else folded_bias + exact(beta)


def dirac_kernel(conv: Conv, tap: tuple[int, ...]) -> torch.Tensor:
    """Return D (float64, the shape of ``conv.weight``), with which ``conv`` is :meth:`ResConv.identity`.

    Each output channel reads the input channel of its own place in its group, at kernel position ``tap``; output
    channels beyond the inputs of their group read nothing.
    """
    kernel = torch.zeros(conv.weight.shape, dtype=torch.float64, device=conv.weight.device)
    channels = torch.arange(kernel.shape[0], device=kernel.device)
    places = channels % (kernel.shape[0] // conv.groups)
    has_twin = places < kernel.shape[1]
    index: Any = (..., *tap)
    at_tap = kernel[index]  # a view of shape (out channels, in channels of a group)
    at_tap[channels[has_twin], places[has_twin]] = 1.0
    return kernel
