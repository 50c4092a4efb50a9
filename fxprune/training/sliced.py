"""A network that is trained without some of its channels: its tensors are parts of those that the optimizer moves.

    slices.pull()                 the parts are as the whole is now
    loss(network(x)).backward()
    slices.push()                 gradients and buffers of the parts are written into the whole

So what is closed costs nothing, and optimizer, checkpoints and schedules know the whole network alone.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from fxprune.weights.slicing import Slice


class Slices:
    """The parts of tensors that a network without some channels computes with."""

    def __init__(self, noted: Iterable[Slice]) -> None:
        self._slices = [
            Slice(one.whole, one.part, {axis: index.to(one.whole.device) for axis, index in one.places.items()})
            for one in noted
            if one.places  # scales at rest are as they are
        ]

    @torch.no_grad()
    def pull(self) -> None:
        """Copy the whole into its parts."""
        for whole, part, places in self._slices:
            found = whole.detach()
            for axis, index in places.items():
                found = found.index_select(axis, index)
            part.copy_(found)

    @torch.no_grad()
    def push(self) -> None:
        """Write the parts' gradients, which are let go, and their buffers into the whole."""
        for whole, part, places in self._slices:
            if not isinstance(part, nn.Parameter):
                _write(whole, list(places.items()), part)
            elif part.grad is not None:
                whole.grad = torch.zeros_like(whole)
                _write(whole.grad, list(places.items()), part.grad)
                part.grad = None


def _write(whole: torch.Tensor, places: list[tuple[int, torch.Tensor]], part: torch.Tensor) -> None:
    """Write ``part`` into its places."""
    (axis, index), *others = places
    if others:
        inner = whole.index_select(axis, index)
        _write(inner, others, part)
        part = inner
    whole.index_copy_(axis, index, part)
