"""Layers and tensors without some of their channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import nn

from fxprune.weights.exact import exact, is_unrounded, keeping_exact

Places = Mapping[int, torch.Tensor]
"""The places of an axis that stay, by axis."""


class Slice(NamedTuple):
    """A tensor, what stays of it, and its places."""

    whole: torch.Tensor
    part: torch.Tensor
    places: dict[int, torch.Tensor]


_NOTED: ContextVar[list[Slice] | None] = ContextVar("slices", default=None)


@contextmanager
def noting_slices() -> Iterator[list[Slice]]:
    """Note what :func:`narrowed` makes of which tensors, inside."""
    noted: list[Slice] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def note_slice(whole: torch.Tensor, part: torch.Tensor, places: Places) -> torch.Tensor:
    """Return ``part``, noted as what stays of ``whole`` inside of :func:`noting_slices`."""
    noted = _NOTED.get()
    if noted is not None:
        noted.append(Slice(whole, part, dict(places)))
    return part


@keeping_exact
def narrowed(tensor: torch.Tensor, places: Places) -> torch.Tensor:
    """Return what stays of ``tensor``, a parameter if that is one, with its dtype, device and memory layout."""
    found = part_of(exact(tensor) if is_unrounded() and tensor.is_floating_point() else tensor, places)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):  # which exact values may not be
        found = found.contiguous(memory_format=torch.channels_last)
    if isinstance(tensor, nn.Parameter):
        found = nn.Parameter(found, requires_grad=tensor.requires_grad)
    return note_slice(tensor, found, places)


def part_of(tensor: torch.Tensor, places: Places) -> torch.Tensor:
    """Return a copy of what is at ``places`` of ``tensor``, detached, with its memory layout."""
    found = tensor.detach()
    if not places:
        return found.clone()
    found = _taken(found, {axis: places[axis].to(found.device) for axis in sorted(places)})
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        found = found.contiguous(memory_format=torch.channels_last)
    return found


def _taken(tensor: torch.Tensor, places: Places) -> torch.Tensor:
    """Return what is at ``places``: in parts, so that what is between two steps stays in the cache."""
    (axis, index), *others = places.items()
    step = at_once(tensor, axis)
    if not others or len(index) <= step:
        for one, at in places.items():
            tensor = tensor.index_select(one, at)
        return tensor
    found = tensor.new_empty([len(places.get(one, range(size))) for one, size in enumerate(tensor.shape)])
    for mine, part in zip(torch.split(index, step), torch.split(found, step, axis), strict=True):
        part.copy_(_taken(tensor.index_select(axis, mine), dict(others)))
    return found


def at_once(tensor: torch.Tensor, axis: int) -> int:
    """Return how many places of ``axis`` hold about as much as a cache does: half a megabyte of float32."""
    return max(1, (1 << 17) * tensor.shape[axis] // max(1, tensor.numel()))


def with_tensors(layer: nn.Module, tensors: Mapping[str, torch.Tensor], **attributes: Any) -> nn.Module:
    """Return a copy of ``layer`` with other parameters and buffers, by name, and attributes; all else is shared."""
    made: nn.Module = object.__new__(type(layer))
    made.__dict__ = {
        **vars(layer),
        "_parameters": {name: tensors.get(name, one) for name, one in layer._parameters.items()},
        "_buffers": {name: tensors.get(name, one) for name, one in layer._buffers.items()},
        **attributes,
    }
    return made
