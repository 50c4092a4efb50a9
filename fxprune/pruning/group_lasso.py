"""Penalties that make whole channels zero in a plain traced graph, in the user's own loop: no gates.

lasso = fxprune.GroupLasso(graph, strength=1e-3)
for ...:
    loss.backward(); optimizer.step(); lasso.step(lr)
pruned = fxprune.passes.RemoveChannels()(graph)      # exact: what reads them is zero
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import fx, nn

from fxprune.choosing.channel_choice import kept_classes
from fxprune.choosing.keeping import Kept
from fxprune.errors import FxpruneError, FxpruneValueError
from fxprune.ir.arguments import require_arguments
from fxprune.ir.nodes import called_module, graphs_of, require_graph
from fxprune.structures.channels.groups import Channels


class _Part(NamedTuple):
    """What channels hold of a parameter along ``axis``: its number at each place, from 1; 0 where it stays."""

    parameter: nn.Parameter
    axis: int
    numbers: torch.Tensor


class ChannelPenalty(ABC):
    """A proximal step on all that each channel holds.

    Args:
        graph_module: a traced graph without gates.
        strength: the penalty's weight, above 0.
        keep, only: layers whose channels stay (see :mod:`fxprune.choosing.keeping`).

    Raises:
        FxpruneError: the graph has gates, or no channel that can go.
    """

    def __init__(
        self,
        graph_module: fx.GraphModule,
        strength: float = 1e-3,
        *,
        keep: Sequence[str] = (),
        only: Sequence[str] = (),
    ) -> None:
        require_arguments(ChannelPenalty.__init__, locals(), type(self).__name__)
        self.graph_module = require_graph(graph_module, type(self).__name__)
        if not strength > 0:
            raise FxpruneValueError(f"the strength of {type(self).__name__} is above 0; got {strength}")
        self.strength = strength
        kept = Kept(keep, only)
        graphs = graphs_of(self.graph_module)
        kept.require_sense(graphs)
        self.width = 0
        self._parts: list[_Part] = []
        for region, graph in graphs:
            self._add(Channels(graph), kept, region)
        if not self._parts:
            raise FxpruneError(
                f"{type(self).__name__} finds no channel that can go; fxprune inspect --channels tells why"
            )

    def _add(self, channels: Channels, kept: Kept, region: str) -> None:
        stays = channels.stays.copy()
        stays[list(kept_classes(channels, kept, region)[0])] = True
        numbers = np.zeros(len(channels.labels), dtype=np.int64)
        free = [one for group in channels.groups for one in group.free.tolist() if not stays[one]]
        numbers[free] = np.arange(self.width + 1, self.width + 1 + len(free))
        self.width += len(free)
        for parameter, axis in dict.fromkeys(self._shrunk(channels)):
            for vector in channels.walk.records.of(parameter).axes[axis]:
                places = torch.from_numpy(numbers[channels.class_of[vector]])
                if places.any():
                    self._parts.append(_Part(parameter, axis, places.to(parameter.device)))

    @abstractmethod
    def _shrunk(self, channels: Channels) -> Iterator[tuple[nn.Parameter, int]]:
        """Yield the parameters of a graph that shrink, each with the axis that its channels are on."""

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Shrink every channel; call it after the optimizer's step, with its learning rate."""
        require_arguments(ChannelPenalty.step, locals())
        self._follow()
        squares, sizes = self._totals()
        norms = squares.sqrt().clamp(min=1e-30)
        left = (1 - lr * self.strength * sizes.sqrt() / norms).clamp(min=0)
        left[0] = 1
        for parameter, axis, numbers in self._parts:
            shape = [1] * parameter.dim()
            shape[axis] = -1
            parameter.mul_(left[numbers].to(parameter.dtype).view(shape))

    @property
    def zeros(self) -> int:
        """How many channels hold nothing but zeros, of :attr:`width`."""
        return int((self._totals()[0][1:] == 0).sum())

    def _totals(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the sum of squares of what each channel holds, and how many numbers; both (width + 1,), float32."""
        device = self._parts[0].parameter.device
        squares, sizes = (torch.zeros(self.width + 1, device=device) for _ in range(2))
        for parameter, axis, numbers in self._parts:
            values = parameter.detach().float().square()
            others = [one for one in range(values.dim()) if one != axis]
            sums = values.sum(others) if others else values
            squares.index_add_(0, numbers, sums)
            sizes.index_add_(0, numbers, torch.full_like(sums, values.numel() / values.shape[axis]))
        return squares, sizes

    def _follow(self) -> None:
        """Have the numbers be where the parameters are: the graph may have been moved since."""
        self._parts = [one._replace(numbers=one.numbers.to(one.parameter.device)) for one in self._parts]


class GroupLasso(ChannelPenalty):
    """The proximal step of a group lasso over all that goes with a channel: rows, norms, biases and columns.

        w <- w max(0, 1 - lr strength sqrt(n) / |w|)      w: the n numbers of a channel, in all layers

    Group lasso for channels is of Wen et al. (arXiv 1608.03665), over all coupled layers of Fang et al. (arXiv
    2301.12900), who add a gradient instead; the proximal step, by which zeros are exact, is of Yuan and Lin (2006).
    What is zero is removed by :class:`fxprune.passes.RemoveChannels` without any change of outputs.
    """

    def _shrunk(self, channels: Channels) -> Iterator[tuple[nn.Parameter, int]]:
        for record in channels.walk.records:
            if isinstance(record.tensor, nn.Parameter):
                yield from ((record.tensor, axis) for axis, vectors in record.axes.items() if vectors)


class NetworkSlimming(ChannelPenalty):
    """The proximal step of an L1 penalty on the scales of batch norms (Liu et al., arXiv 1708.06519).

        gamma <- sign(gamma) max(0, |gamma| - lr strength)

    Of channels with several norms all shrink alike, by the length of their scales together, which is ours. A channel
    at zero is its norm's constant: ``RemoveChannels(ratio=..., criterion="bn-gamma")`` takes it out, and what the
    constant was for the layers behind is lost, as there.
    """

    def _shrunk(self, channels: Channels) -> Iterator[tuple[nn.Parameter, int]]:
        for node in channels.graph_module.graph.find_nodes(op="call_module"):
            module = called_module(node)
            weight = getattr(module, "weight", None) if isinstance(module, nn.modules.batchnorm._BatchNorm) else None
            if isinstance(weight, nn.Parameter) and channels.walk.records.of(weight).axes.get(0):
                yield weight, 0
