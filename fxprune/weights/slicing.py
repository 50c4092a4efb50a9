"""Layers and tensors without some of their channels."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fxprune.weights.exact import exact, is_unrounded, keeping_exact

Masks = Mapping[int, NDArray[np.bool_]]
"""Which places of an axis stay, by axis."""


@keeping_exact
def narrowed(tensor: torch.Tensor, masks: Masks) -> torch.Tensor:
    """Return what stays of ``tensor``, a parameter if that is one, with its dtype, device and memory layout."""
    with torch.no_grad():
        found = exact(tensor) if is_unrounded() and tensor.is_floating_point() else tensor.detach()
        for axis, mask in masks.items():
            found = found.index_select(axis, torch.from_numpy(np.flatnonzero(mask)).to(found.device))
        if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            found = found.contiguous(memory_format=torch.channels_last)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(found, requires_grad=tensor.requires_grad)
    return found


def with_tensors(layer: nn.Module, tensors: Mapping[str, torch.Tensor], **attributes: Any) -> nn.Module:
    """Return a copy of ``layer`` with other parameters and buffers, by name, and attributes; all else is shared."""
    made = copy.copy(layer)
    made.__dict__ = {
        **vars(layer),
        "_parameters": {name: tensors.get(name, one) for name, one in layer._parameters.items()},
        "_buffers": {name: tensors.get(name, one) for name, one in layer._buffers.items()},
        **attributes,
    }
    return made
