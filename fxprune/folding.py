"""The algebra of folding norms, scales and shortcuts into weights: factors in float64, weights in the layer's dtype.

A batch norm in eval mode is g * (y - mean) + beta with g = gamma / sqrt(var + eps) per channel, so

    norm(W x + b)               =  (g W) x + g (b - mean) + beta
    s * norm(W x + b) + a * x   =  (s g W + a D) x + s (g (b - mean) + beta)

with D the Dirac kernel, which has a single 1 per output channel. While a pipeline verifies, the float64
values of the weights that it makes are kept beside the rounded ones, so that what is compared is the
algebra and not the rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch import nn

from fxprune.layer_classes import Conv
from fxprune.module_tree import copy_module

_Weighted = TypeVar("_Weighted", bound=nn.Module)
_exact: ContextVar[dict[int, tuple[torch.Tensor, torch.Tensor]] | None] = ContextVar("exact", default=None)


@contextmanager
def keep_exact_weights(enabled: bool = True) -> Iterator[None]:
    """Keep the float64 values of all weights made inside; an outer such block goes on serving."""
    if not enabled or _exact.get() is not None:
        yield
        return
    token = _exact.set({})
    try:
        yield
    finally:
        _exact.reset(token)


def exact(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float64: as it was before rounding if that was kept, else converted."""
    kept = (_exact.get() or {}).get(id(tensor))
    return tensor.detach().double() if kept is None else kept[1]


def has_exact(module: nn.Module) -> bool:
    """Say whether a parameter of ``module`` was rounded and its value before that was kept."""
    kept = _exact.get() or {}
    return bool(kept) and any(id(parameter) in kept for parameter in module.parameters())


@torch.no_grad()
def in_float64(module: _Weighted) -> _Weighted:
    """Return a deep copy of ``module`` in float64, with the exact values of its parameters."""
    wide = copy_module(module).double()
    for name, parameter in module.named_parameters():
        wide.get_parameter(name).copy_(exact(parameter))
    return wide  # type: ignore[return-value]


def widen(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` in float64 if it holds floating-point numbers, else as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def rounded(value: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return ``value`` (float64) with dtype, device and memory layout of ``like``; what it was before is kept."""
    if like.shape == value.shape:
        made = torch.empty_like(like).copy_(value)
    else:
        made = value.to(device=like.device, dtype=like.dtype, copy=True)
    _keep(made, value)
    return made


def make_parameter(value: torch.Tensor, like: torch.Tensor, requires_grad: bool) -> nn.Parameter:
    """Return ``value`` (float64) as a Parameter with dtype, device and memory layout of ``like``."""
    parameter = nn.Parameter(rounded(value, like), requires_grad=requires_grad)
    _keep(parameter, value)
    return parameter


def _keep(tensor: torch.Tensor, value: torch.Tensor) -> None:
    kept = _exact.get()
    if kept is not None:
        kept[id(tensor)] = (tensor, value)


@torch.no_grad()
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


@torch.no_grad()
def scaled_rows(weight: torch.Tensor, factor: torch.Tensor) -> nn.Parameter:
    """Return ``weight`` times ``factor`` (float64, one number a row) as a Parameter.

    Where exact weights are kept the product is worked out in float64; else in the dtype of ``weight``, half precision
    in float32, which is one rounding more and half the time.
    """
    broadcast = factor.reshape(-1, *[1] * (weight.dim() - 1))
    if _exact.get() is not None:
        return make_parameter(exact(weight) * broadcast, weight.detach(), weight.requires_grad)
    wide = torch.promote_types(weight.dtype, torch.float32)
    made = torch.mul(weight.to(wide), broadcast.to(wide), out=torch.empty_like(weight))
    return nn.Parameter(made, requires_grad=weight.requires_grad)


def own_bias(module: nn.Module) -> torch.Tensor | None:
    """Return the bias of a layer in float64, or None."""
    bias = module._parameters.get("bias")
    return None if bias is None else exact(bias)


def norm_obstacle(norm: nn.Module, model_is_training: bool) -> str | None:
    """Return why a batch norm is not a fixed affine map in eval mode, or None if it is one."""
    if norm.running_mean is None or norm.running_var is None:
        return "it keeps no running statistics"
    if norm.training and not model_is_training:
        return "it is in train mode inside a model in eval mode"
    return None


@torch.no_grad()
def norm_as_factor(bias: torch.Tensor | None, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a batch norm behind a layer does to it (float64): the factor of each output channel, the new bias.

    ``norm`` has running statistics; ``bias`` is that of the layer.
    """
    mean, variance = exact(norm._buffers["running_mean"]), exact(norm._buffers["running_var"])  # type: ignore[arg-type]
    gamma, beta = norm._parameters.get("weight"), norm._parameters.get("bias")
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
