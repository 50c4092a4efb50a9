"""Which channels of a group would close next while a network trains: those that are read least.

    worth of a channel = sum over the layers that read it of rms(x)^2 |W|^2 / the sum of that over all their columns

x is what arrives in the channel on the probe, W the columns that read it, with the scales as they are: the share of
the channel in what each reader computes, were channels independent. It is to whole channels what |W| |x| is to single
weights (Sun et al., arXiv 2306.11695); for channels, summed over readers, it is ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx, nn

from fxprune.choosing.remaining import Remaining
from fxprune.facts.kept_state import keeping_state
from fxprune.gates.channel_gate import ScaledAxis, ScaledColumns
from fxprune.ir.module_tree import evaluating
from fxprune.ir.nodes import as_taken_now, called_module, example_inputs_of, graphs_of
from fxprune.structures.channel_chunk import Chunk
from fxprune.structures.channels.groups import LEAST

Worth = Mapping[str, NDArray[np.float64]]
"""What channels are worth, by the path of their group's gate; (width,)."""


class Chunks:
    """What closes next of each group.

    Args:
        remaining: the gates of a graph.
        share: of a group's width that closes at a time, above 0; a channel at least.
        multiple_of: how many at least, and of what the number of those is a multiple.
    """

    def __init__(self, remaining: Remaining, share: float, multiple_of: int) -> None:
        self._remaining = remaining
        self.sizes = {
            path: max(1, round(gate.width * share / multiple_of)) * multiple_of
            for path, gate in remaining.channels.items()
        }

    def first(self) -> list[Chunk]:
        """Return a chunk of each group, whichever channels are in it."""
        return self.after({}, {path: np.zeros(gate.width) for path, gate in self._remaining.channels.items()})

    def after(self, closed: Mapping[str, Collection[int]], worth: Worth) -> list[Chunk]:
        """Return the next chunk of each group that has one, once those ``closed`` are gone."""
        found = []
        for path, gate in self._remaining.channels.items():
            places = [one for one in range(gate.width) if one not in closed.get(path, ())]
            if len(places) - self.sizes[path] >= LEAST:
                places.sort(key=lambda one: worth[path][one])
                found.append(self._remaining.chunk(path, sorted(places[: self.sizes[path]])))
        return found


@torch.no_grad()
def worth_of_channels(graph_module: fx.GraphModule, remaining: Remaining, probe: tuple[Any, ...]) -> Worth:
    """Return what the channels of all gates are worth on ``probe``; those in a region on its own example."""
    found = {path: np.zeros(gate.width) for path, gate in remaining.channels.items()}
    regions = {gate.region for gate in remaining.channels.values()}
    for region, graph in graphs_of(graph_module):
        if region in regions:
            inputs = example_inputs_of(graph) if region else as_taken_now(graph, probe)
            gates = {gate.node: path for path, gate in remaining.channels.items() if gate.region == region}
            with evaluating(graph), keeping_state(graph), _watching(graph, gates, found):
                graph(*inputs)
    return found


@contextmanager
def _watching(
    graph: fx.GraphModule, gates: Mapping[fx.Node, str], worth: Mapping[str, NDArray[np.float64]]
) -> Iterator[None]:
    """Inside, add up what each reader reads."""
    handles = []
    for node in graph.graph.find_nodes(op="call_module"):
        module = called_module(node)
        if isinstance(module, (ScaledColumns, ScaledAxis)):
            watch = _Watch(node, gates, worth)
            handles.append(module.register_forward_pre_hook(watch))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Watch:
    """Adds up what a reader reads, when it is called."""

    def __init__(self, node: fx.Node, gates: Mapping[fx.Node, str], worth: Mapping[str, NDArray[np.float64]]) -> None:
        self._paths = [gates[read] for read in node.args[1:] if isinstance(read, fx.Node)]
        self._worth = worth

    def __call__(self, module: Any, given: tuple[torch.Tensor, ...]) -> None:
        x, *scales = given
        factor = module.factor(1, scales) if module.axis == 0 else module.factor(module.axis + 1, scales)
        energy = _energy(module, x) * factor.flatten().double().square()
        shares = (energy / energy.sum().clamp(min=1e-300)).cpu().numpy()
        for places in module.index.cpu().numpy():
            first = 1
            for path, scale in zip(self._paths, scales, strict=True):
                mine = (places >= first) & (places < first + len(scale))
                np.add.at(self._worth[path], places[mine] - first, shares[mine])
                first += len(scale)


def _energy(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return for each column the mean square of what it reads, times that of its weights; (columns,)."""
    if isinstance(module, ScaledAxis):
        others = [axis for axis in range(x.dim()) if axis != module.axis]
        return x.double().square().mean(others)
    assert isinstance(module, ScaledColumns)
    layer: Any = module.layer
    weight: torch.Tensor = layer.weight.double().square()
    if isinstance(layer, nn.Linear):
        return x.double().square().flatten(0, -2).mean(0) * weight.sum(0)
    batched = x if x.dim() == weight.dim() else x[None]
    read = batched.double().square().mean([axis for axis in range(batched.dim()) if axis != 1])
    kernel = weight.flatten(2).sum(2)
    if module.axis == 0:  # transposed
        return read * kernel.sum(1)
    groups: int = layer.groups
    return (read.view(groups, -1) * kernel.view(groups, -1, kernel.shape[1]).sum(1)).sum(0)
