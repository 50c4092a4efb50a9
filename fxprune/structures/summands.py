"""Layers whose outputs are summands: what the rest of the sum lacks, such a layer can make up for.

s = a * (W x + b) + c + o   ->   W x + b = (s - o - c) / a        a, c: of a batch norm in between, or 1 and 0
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import fx, nn

from fxprune.ir.nodes import called_module, only_user
from fxprune.ops.call import operands
from fxprune.ops.layer_classes import NORM_CLASSES
from fxprune.weights.folding import norm_as_factor, norm_obstacle

_LEAST = 1e-3


class Summand(NamedTuple):
    """A layer's output is one operand of ``addition``, ``other`` is the other one, ``norm`` is in between, if any."""

    addition: fx.Node
    other: fx.Node
    norm: nn.Module | None

    def wanted(self, total: torch.Tensor, other: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
        """Return what the layer must compute, (N, C, ...), for the sum to be ``total`` beside ``other``.

        Where the norm all but closes a channel it stays at ``plain``.
        """
        rest = total.double() - other.double()
        if self.norm is None:
            return rest
        factor, shift = norm_as_factor(None, self.norm)
        shape = [1, -1, *[1] * (rest.dim() - 2)]
        is_open = factor.abs() > _LEAST * factor.abs().amax()
        found = (rest - shift.view(shape)) / factor.where(is_open, torch.ones_like(factor)).view(shape)
        return found.where(is_open.view(shape), plain.double())


def summand(node: fx.Node) -> Summand | None:
    """Return which sum the layer that ``node`` calls is an operand of; None if it is none."""
    norm = None
    behind = only_user(node)
    module = called_module(behind)
    if behind is not None and type(module) in NORM_CLASSES and module is not None:
        if norm_obstacle(module, model_is_training=False) is not None:
            return None
        node, norm, behind = behind, module, only_user(behind)
    both = None if behind is None else operands(behind, "add")
    if behind is None or both is None or not all(isinstance(one, fx.Node) for one in both):
        return None
    return Summand(behind, both[1] if both[0] is node else both[0], norm)
