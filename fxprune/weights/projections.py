"""The linear layers that attention is made of: one for queries, one for keys, one for values, one behind it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fxprune.weights.slicing import narrowed


def linear(weight: torch.Tensor, bias: torch.Tensor | None, training: bool) -> nn.Linear:
    """Return a linear layer that holds these parameters, ``bias`` or none."""
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight, layer.bias = weight, bias  # type: ignore[assignment]  # they are parameters, the bias or none
    return layer.train(training)


def thirds(stacked: torch.Tensor | None) -> list[Any]:
    """Return the rows of a parameter for queries, keys and values, each a parameter of its own; or no three."""
    if stacked is None:
        return [None] * 3
    return [narrowed(stacked, {0: rows}) for rows in torch.arange(len(stacked)).chunk(3)]


def projections(module: nn.MultiheadAttention) -> list[nn.Linear]:
    """Return the layers that make queries, keys and values, with parameters of their own."""
    weights = [module.q_proj_weight, module.k_proj_weight, module.v_proj_weight]
    if module.in_proj_weight is not None:
        weights = thirds(module.in_proj_weight)
    biases = thirds(module.in_proj_bias)
    return [linear(weight, bias, module.training) for weight, bias in zip(weights, biases, strict=True)]


def output_projection(module: nn.MultiheadAttention) -> nn.Linear:
    """Return its ``out_proj`` as a plain linear layer with the same parameters."""
    return linear(module.out_proj.weight, module.out_proj.bias, module.training)
