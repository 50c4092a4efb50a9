"""Weights times a factor: what computes a * f(x) in the place of f(x), or f(a * x)."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fxprune.weights.exact import exact, keeping_exact, make_parameter
from fxprune.weights.folding import own_bias, scaled_rows, with_weights


@keeping_exact
def scaled(value: nn.Module | nn.Parameter, factor: float, with_bias: bool) -> nn.Module | nn.Parameter:
    """Return a parameter times ``factor``, or a copy of a layer whose weight is; ``value`` is not changed.

    ``with_bias``: the layer's output is scaled, and so its bias too; else what it reads is.
    """
    if isinstance(value, nn.Parameter):
        return make_parameter(factor * exact(value), value.detach(), value.requires_grad)
    return (
        _scaled_attention(value, factor)
        if isinstance(value, nn.MultiheadAttention)
        else _scaled_layer(value, factor, with_bias)
    )


def _scaled_layer(module: nn.Module, factor: float, with_bias: bool) -> nn.Module:
    bias = own_bias(module)
    if bias is not None and with_bias:
        bias = factor * bias
    weight = module.get_parameter("weight")
    rows = torch.full((len(weight),), factor, dtype=torch.float64, device=weight.device)
    return with_weights(module, scaled_rows(weight, rows), bias)


def scaled_norm(norm: nn.Module, factor: float) -> nn.Module:
    """Return a shallow copy of a batch norm whose gamma and beta are times ``factor``; it has both then."""
    if norm._parameters.get("weight") is None:
        norm = _with_affine(norm)
    return _scaled_layer(norm, factor, with_bias=True)


def _with_affine(norm: nn.Module) -> nn.Module:
    """Return a shallow copy of a batch norm that has neither gamma nor beta, with those that change nothing."""
    like = norm.get_buffer("running_mean")
    duplicate = copy.copy(norm)
    gamma, beta = nn.Parameter(torch.ones_like(like)), nn.Parameter(torch.zeros_like(like))
    duplicate.__dict__ = {**vars(norm), "affine": True, "_parameters": {"weight": gamma, "bias": beta}}
    return duplicate


def _scaled_attention(module: nn.MultiheadAttention, factor: float) -> nn.MultiheadAttention:
    """Return a shallow copy of ``module`` with another last projection."""
    last = module.out_proj
    bias = own_bias(last)
    projection = with_weights(last, factor * exact(last.weight), None if bias is None else factor * bias)
    duplicate = copy.copy(module)
    duplicate.__dict__ = {**vars(module), "_modules": {**module._modules, "out_proj": projection}}
    return duplicate
