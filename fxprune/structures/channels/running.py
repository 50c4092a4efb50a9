"""Runs of a graph that look at what its readers read, channel by channel, or change it.

    y = conv(x; W)   ->   y = conv(see(x); W)         at every reader of channels, and nowhere else

A value that several layers read is seen once by each: what one reads may be changed alone, and has a gradient alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from fxprune.gates.base import ungated_call
from fxprune.ir.interpreter import Interpreter, plain
from fxprune.structures.channels.groups import Channels
from fxprune.structures.channels.labels import Array
from fxprune.structures.channels.walk import Reader

Worth = NDArray[np.float64]
"""A number for each class of a graph, by label."""


class Read(NamedTuple):
    """What a reader reads: channels along ``axis`` of what ``operand`` computes, with the classes of each place.

    Where two activations are multiplied it is the first one, as for gates; ``classes`` has an array for each layer of
    labels.
    """

    node: fx.Node
    operand: fx.Node
    axis: int
    classes: tuple[Array, ...]

    def per_channel(self, value: torch.Tensor) -> NDArray[np.float64]:
        """Return the sums of ``value``, shaped as what is read, over all other axes; (channels,)."""
        others = [one for one in range(value.dim()) if one != self.axis]
        found: NDArray[np.float64] = value.detach().double().sum(others).cpu().numpy()
        return found

    def add(self, worth: Worth, value: torch.Tensor) -> None:
        """Add the sums of ``value``, shaped as what is read, to those of the classes."""
        numbers = self.per_channel(value)
        for classes in self.classes:
            np.add.at(worth, classes, numbers)


See = Callable[[Read, torch.Tensor], torch.Tensor]


def reads_of(channels: Channels) -> list[Read]:
    """Return what all readers of a graph read, in its order."""
    return [_read(channels, reader) for reader in channels.walk.readers]


def _read(channels: Channels, reader: Reader) -> Read:
    call = ungated_call(reader.node)
    assert call.op is not None
    operand = call.operand(0) if reader.operand is None else reader.operand
    shape = channels.walk.value(operand).shape
    axis = reader.axis % len(shape) if reader.weight is None else len(shape) - 1 - call.op.axes
    vectors = (channels.class_of[one] for one in reader.vectors)
    # of a conv with groups the columns are those of one group
    return Read(reader.node, operand, axis, tuple(np.tile(one, shape[axis] // len(one)) for one in vectors))


class Running(Interpreter):
    """Runs a graph; each reader reads what ``see`` returns of what it would read, of the same shape."""

    def __init__(self, channels: Channels, see: See) -> None:
        super().__init__(channels.graph_module)
        self._see = see
        self._reads: defaultdict[fx.Node, list[Read]] = defaultdict(list)
        for read in reads_of(channels):
            self._reads[read.node].append(read)

    def run_node(self, n: fx.Node) -> Any:
        """Return what ``n`` computes, from what it sees if it reads channels."""
        reads = self._reads.get(n)
        if reads is None:
            return super().run_node(n)
        operand = reads[0].operand
        value = self.env[operand]
        for read in reads:
            value = self._see(read, value)
        args, kwargs = _given(n, self.env, operand, value)
        return getattr(self, n.op)(n.target, args, kwargs)


def _given(node: fx.Node, env: dict[fx.Node, Any], operand: fx.Node, seen: torch.Tensor) -> Any:
    """Return what ``node`` is called with: ``seen`` where it reads ``operand`` first; of x times x one side is."""
    first = [seen]

    def value_of(one: fx.Node) -> Any:
        return first.pop() if one is operand and first else env[one]

    return plain(fx.map_arg((node.args, node.kwargs), value_of))


def contributions(channels: Channels, inputs: tuple[Any, ...], loss: Callable[[Any], torch.Tensor]) -> Worth:
    """Return the sums of a * d loss / d a over all elements a that are read of each class, by class.

    That is d loss / d g of a gate g = 1 of the class (:class:`fxprune.passes.InsertChannelGate`): none is needed.

    Args:
        channels: of the graph that is run, in the mode that it is in, with gradients.
        inputs: what it is called with.
        loss: makes a scalar of what it returns.
    """
    seen: list[tuple[Read, torch.Tensor]] = []

    def see(read: Read, value: torch.Tensor) -> torch.Tensor:
        # an alias of its own, so that the gradient is that of what this reader does with it
        alias = value.view_as(value) if value.requires_grad else value.detach().requires_grad_()
        seen.append((read, alias))
        return alias

    found = np.zeros(len(channels.labels))
    with torch.enable_grad():
        total = loss(Running(channels, see).run(*inputs))
        if total.requires_grad:
            gradients = torch.autograd.grad(total, [alias for _, alias in seen], allow_unused=True)
            for (read, alias), gradient in zip(seen, gradients, strict=True):
                if gradient is not None:
                    read.add(found, alias.detach() * gradient)
    return found
