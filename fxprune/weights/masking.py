"""Linear layers of which a part of the weight is zero, and what is left of them when it is split into blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from fxprune.weights.exact import exact, keeping_exact, make_parameter
from fxprune.weights.slicing import narrowed, with_tensors

_MORE = 8
Places = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""The rows and the columns of each block."""


@keeping_exact
def masked(layer: nn.Linear, mask: torch.Tensor) -> nn.Module:
    """Return a copy of ``layer`` whose weight is zero where ``mask`` (out, in) is False; its bias is shared."""
    weight = layer.weight
    kept = torch.where(mask.to(weight.device), exact(weight), 0.0)
    return with_tensors(layer, {"weight": make_parameter(kept, weight, weight.requires_grad)})


class LowRank(NamedTuple):
    """Two layers without biases, in -> rank and rank -> out, whose product is near to a matrix.

    ``kept`` is the share of its squares that they hold.
    """

    down: nn.Linear
    up: nn.Linear
    kept: float


@torch.no_grad()
def low_rank(layer: nn.Linear, across: torch.Tensor, share: float, seed: int) -> LowRank | None:
    """Return the weight of ``layer`` where ``across`` (out, in) is True, by so few numbers; None if none is enough.

    The singular vectors of the largest values, as many as have at most ``share`` of the weights across (a randomised
    method: Halko et al., arXiv 0909.4061, with a fixed seed).
    """
    rank = int(share * int(across.sum()) / (layer.in_features + layer.out_features))
    if rank < 1:
        return None
    weight = layer.weight
    rest = torch.where(across.to(weight.device), weight.detach().double(), 0.0)
    with torch.random.fork_rng(devices=[weight.device] if weight.device.type == "cuda" else []):
        torch.manual_seed(seed)
        left, values, right = torch.svd_lowrank(rest, q=min(rank + _MORE, *rest.shape), niter=4)
    root = values[:rank].sqrt()
    found = []
    for matrix in (right[:, :rank].T * root[:, None], left[:, :rank] * root):
        one = nn.Linear(matrix.shape[1], matrix.shape[0], bias=False, device="meta")
        one.weight = make_parameter(matrix, weight, weight.requires_grad)
        found.append(one.train(layer.training))
    total = float(rest.square().sum())
    return LowRank(found[0], found[1], float(values[:rank].square().sum()) / total if total else 1.0)


def part(layer: nn.Linear, rows: torch.Tensor, columns: torch.Tensor) -> nn.Module:
    """Return what ``layer`` computes at ``rows`` of what it reads at ``columns``, as a linear layer of its own."""
    tensors: dict[str, torch.Tensor] = {"weight": narrowed(layer.weight, {0: rows, 1: columns})}
    if layer.bias is not None:
        tensors["bias"] = narrowed(layer.bias, {0: rows})
    return with_tensors(layer, tensors, in_features=len(columns), out_features=len(rows))


@keeping_exact
def grouped(layer: nn.Linear, places: Places) -> nn.Module:
    """Return the blocks of ``layer`` as a convolution over one place, a group each; all are of one shape."""
    groups, weight = len(places), layer.weight
    conv = nn.Conv1d(layer.in_features, layer.out_features, 1, groups=groups, bias=False, device="meta")
    conv.weight = make_parameter(_stacked(layer, places).flatten(0, 1).unsqueeze(2), weight, weight.requires_grad)
    if layer.bias is not None:
        bias = exact(layer.bias)[_rows(layer, places)]
        conv.bias = make_parameter(bias, layer.bias, layer.bias.requires_grad)
    return conv.train(layer.training)


@keeping_exact
def stacked(layer: nn.Linear, places: Places) -> nn.Module:
    """Return a module that holds the blocks of ``layer`` for a batched product: weight (k, in / k, out / k), bias."""
    holder = nn.Module()
    weight = layer.weight
    holder.weight = make_parameter(_stacked(layer, places).transpose(1, 2), weight, weight.requires_grad)
    bias = torch.zeros_like(weight[:, 0]) if layer.bias is None else layer.bias
    wanted = exact(bias)[_rows(layer, places)].view(len(places), 1, -1)
    holder.bias = make_parameter(wanted, bias, layer.bias is not None and layer.bias.requires_grad)
    return holder.train(layer.training)


def _stacked(layer: nn.Linear, places: Places) -> torch.Tensor:
    weight = exact(layer.weight)
    return torch.stack([weight[rows.to(weight.device)][:, columns.to(weight.device)] for rows, columns in places])


def _rows(layer: nn.Linear, places: Places) -> torch.Tensor:
    return torch.cat([rows for rows, _ in places]).to(layer.weight.device)
