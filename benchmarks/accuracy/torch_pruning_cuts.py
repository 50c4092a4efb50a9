"""Channels cut by Torch-Pruning, to a share of the MACs: its L1, and what its group lasso has made small.

Ratios are found by bisection: what comes nearest to the target, above or below it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

import fxprune
from fxprune.choosing.keeping import matches
from fxprune.costs.macs import total_macs

Cost = Callable[[nn.Module], float]
"""What a network costs."""
_HALVINGS = 10
"""2^-10 of a ratio is less than a channel of 64."""


def cut_by_l1(
    network: nn.Module, examples: torch.Tensor, target: float, only: list[str], cost: Cost | None = None
) -> nn.Module:
    """Return the network without the channels of the smallest L1, the same share everywhere.

    ``target`` is the share to leave of what ``cost`` says, the MACs by default.
    """
    tp = _package()
    importance = tp.importance.GroupMagnitudeImportance(p=1)

    def cut(ratio: float) -> nn.Module:
        own = copy.deepcopy(network)
        kept = _ignored(own, only)
        tp.pruner.MagnitudePruner(own, examples, importance, pruning_ratio=ratio, ignored_layers=kept).step()
        return own

    return _nearest(cut, network, target, cost or partial(_macs, examples=examples))


def cut_by_group_norm(network: nn.Module, examples: torch.Tensor, target: float, only: list[str]) -> nn.Module:
    """Return the network without the channels of the smallest group norm, in one ranking, as its recipe does."""

    def cut(ratio: float) -> nn.Module:
        own = copy.deepcopy(network)
        _group_norm_pruner(own, examples, only, pruning_ratio=ratio).step()
        return own

    return _nearest(cut, network, target, partial(_macs, examples=examples))


@contextmanager
def group_lasso(network: nn.Module, examples: torch.Tensor, only: list[str], reg: float) -> Iterator[None]:
    """Add the gradient of Torch-Pruning's group lasso before each step of an optimizer."""
    pruner = _group_norm_pruner(network, examples, only, reg=reg)
    handle = register_optimizer_step_pre_hook(lambda *_: pruner.regularize(network))
    try:
        yield
    finally:
        handle.remove()


def _group_norm_pruner(network: nn.Module, examples: torch.Tensor, only: list[str], **options: Any) -> Any:
    tp = _package()
    importance = tp.importance.GroupMagnitudeImportance(p=2)
    kept = _ignored(network, only)
    return tp.pruner.GroupNormPruner(
        network, examples, importance, global_pruning=True, ignored_layers=kept, **options
    )


def _package() -> Any:
    """Return Torch-Pruning, which is of the extra ``bench``: records are read and drawn without it."""
    return import_module("torch_pruning")


def _ignored(network: nn.Module, only: list[str]) -> list[nn.Module]:
    """Return the layers whose output channels stay: the classifier, and what ``only`` does not name."""
    found = {path: one for path, one in network.named_modules() if isinstance(one, (nn.Conv2d, nn.Linear))}
    return [one for path, one in found.items() if isinstance(one, nn.Linear) or (only and not matches(only, path))]


def _nearest(cut: Callable[[float], nn.Module], network: nn.Module, target: float, cost: Cost) -> nn.Module:
    """Return ``cut(ratio)`` for the ratio that leaves what is nearest to ``target`` of the cost of ``network``."""
    wanted = target * cost(network)
    low, high = 0.0, 1.0
    found: list[tuple[float, int, nn.Module]] = []
    for number in range(_HALVINGS):
        middle = (low + high) / 2
        model = cut(middle)
        left = cost(model)
        found.append((abs(left - wanted), number, model))
        low, high = (low, middle) if left <= wanted else (middle, high)
    return min(found)[2]


def _macs(network: nn.Module, examples: torch.Tensor) -> int:
    return total_macs(fxprune.trace(copy.deepcopy(network).eval(), examples))
